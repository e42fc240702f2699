"""Ask a language model what the final features of a concept respond to."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.features.descriptions import Request, describe_features

    given, params = snakemake.input, snakemake.params
    describe_features(
        snakemake.wildcards.concept,
        int(snakemake.wildcards.seed),
        (given.labels, given.evidence),
        params.features,
        Request(**params.request, **params.access),
        params.cache,
        snakemake.output[0],
    )
