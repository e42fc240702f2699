"""Tune the built-in world's aligned VLM on questions about images, with snapshots on the way."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.config.world import WorldConfig
    from vlmdiff.world.tuning import train_vlm

    snapshots = dict(zip(snakemake.params.percentages, snakemake.output.models, strict=True))
    train_vlm(
        WorldConfig(**snakemake.params.world),
        Path(snakemake.input.aligned).parent,
        {percent: Path(file).parent for percent, file in snapshots.items()},
        Path(snakemake.output.table),
        Path(snakemake.params.checkpoints),
    )
