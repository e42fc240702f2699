"""Test which features fire more often on a concept than on its baseline."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.dictionaries.partial_reads import count_features
    from vlmdiff.features.contrast import contrast_concept
    from vlmdiff.features.separate import check_separate

    given, params, concept = snakemake.input, snakemake.params, snakemake.wildcards.concept
    check_separate(concept, (params.target, params.baseline), given.samples, params.samples)
    contrast_concept(
        concept,
        params.target,
        params.baseline,
        (given.target_statistics, given.target_totals),
        (given.baseline_statistics, given.baseline_totals),
        count_features([Path(file).parent for file in given.dictionaries]),
        params.criteria,
        snakemake.output[0],
    )
