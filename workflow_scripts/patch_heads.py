"""Patch attention heads exactly and compare with attribution."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.heads.tracing import TracedSamples, patch_heads
    from vlmdiff.interventions.inputs import ModelFiles
    from vlmdiff.runtime.seeds import derive_seed

    files, params, wildcards = snakemake.input, snakemake.params, snakemake.wildcards
    patch_heads(
        ModelFiles(**params.model, config=files.model),
        TracedSamples(files.samples, **params.traced),
        files.dictionaries,
        {"ranking": files.ranking, "attribution": files.attribution},
        snakemake.output.patching,
        snakemake.output.agreement,
        concept=wildcards.concept,
        seed=derive_seed(params.seed, "patch_heads", wildcards.seed, wildcards.concept),
        **params.stage,
    )
