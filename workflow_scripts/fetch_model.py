"""Fetch a checkpoint from the Hugging Face hub."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.hub.checkpoints import fetch_checkpoint

    fetch_checkpoint(snakemake.params.source, Path(snakemake.output.config).parent)
