"""Attribute the best-ranked features to attention heads by attribution patching."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.heads.tracing import TracedSamples, attribute_heads
    from vlmdiff.interventions.inputs import ModelFiles

    files, params = snakemake.input, snakemake.params
    attribute_heads(
        ModelFiles(**params.model, config=files.model),
        TracedSamples(files.samples, **params.traced),
        files.dictionaries,
        files.ranking,
        snakemake.output[0],
        concept=snakemake.wildcards.concept,
        **params.stage,
    )
