"""Test which features fire more often on a concept than on its baseline."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.dictionaries.parts import count_features
    from vlmdiff.features.contrast import contrast_concept

    given, params = snakemake.input, snakemake.params
    contrast_concept(
        snakemake.wildcards.concept,
        params.target,
        params.baseline,
        (given.target_statistics, given.target_totals),
        (given.baseline_statistics, given.baseline_totals),
        count_features([Path(file).parent for file in given.dictionaries]),
        params.criteria,
        snakemake.output[0],
    )
