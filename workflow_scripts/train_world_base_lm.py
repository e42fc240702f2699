"""Train the built-in world's base language model on text."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.config.world import WorldConfig
    from vlmdiff.world.base_lm import train_base_lm

    train_base_lm(
        WorldConfig(**snakemake.params.world),
        Path(snakemake.output.model).parent,
        Path(snakemake.output.table),
    )
