"""Measure how strongly the model before tuning has the features of the tuned one."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.features.latent_scaling import scale_latents

    folders = [Path(file).parent for file in snakemake.input.dictionaries]
    scale_latents(snakemake.params.layout, folders, snakemake.output[0])
