"""Tabulate where each feature's top head looks on the images that the feature fires on most."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.heads.attention import map_attention
    from vlmdiff.interventions.inputs import ModelFiles

    files, params = snakemake.input, snakemake.params
    map_attention(
        ModelFiles(**params.model, config=files.model),
        files.samples,
        files.dictionaries,
        {"ranking": files.ranking, "attribution": files.attribution},
        snakemake.output[0],
        concept=snakemake.wildcards.concept,
        **params.stage,
    )
