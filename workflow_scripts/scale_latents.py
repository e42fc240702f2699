"""Measure how strongly the model before tuning has the features of the tuned one."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.features.latent_scaling import scale_latents

    given, params = snakemake.input, snakemake.params
    files = zip(given.base, given.dictionaries, strict=True)
    folders = [tuple(Path(file).parent for file in both) for both in files]
    scale_latents(params.layout, params.texts, folders, snakemake.output[0])
