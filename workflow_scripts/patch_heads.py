"""Patch every attention head exactly and compare with attribution."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.heads.tracing import TracedSamples, patch_heads
    from vlmdiff.interventions.inputs import ModelFiles

    files, params = snakemake.input, snakemake.params
    patch_heads(
        ModelFiles(**params.model, config=files.model),
        TracedSamples(files.samples, **params.traced),
        files.dictionaries,
        {"ranking": files.ranking, "attribution": files.attribution},
        snakemake.output.patching,
        snakemake.output.agreement,
        concept=snakemake.wildcards.concept,
        **params.stage,
    )
