"""Pre-train the built-in world's vision tower and align its projector with the base model's words."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.config.world import WorldConfig
    from vlmdiff.world.vision import train_vision

    train_vision(
        WorldConfig(**snakemake.params.world),
        Path(snakemake.input.base_lm).parent,
        Path(snakemake.output.model).parent,
        Path(snakemake.output.table),
    )
