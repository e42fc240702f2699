"""Keep the features that pass every filter of a concept, and count what each filter leaves."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.features.funnel import select_features

    given, params = snakemake.input, snakemake.params
    select_features(
        snakemake.wildcards.concept,
        int(snakemake.wildcards.seed),
        params.unit,
        params.eps,
        params.fdr,
        (given.adapted, given.contrast, given.lexical),
        (snakemake.output.funnel, snakemake.output.final, snakemake.output.check),
    )
