"""Ask a language model what the final features of a concept respond to."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.features.descriptions import DescribedTables, Request, describe_features

    given, params, made = snakemake.input, snakemake.params, snakemake.output
    describe_features(
        snakemake.wildcards.concept,
        int(snakemake.wildcards.seed),
        DescribedTables(given.labels, given.evidence, given.chosen, given.samples),
        params.features,
        Request(**params.request, **params.access),
        params.cache,
        (made.descriptions, made.detections),
    )
