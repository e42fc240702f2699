"""Train a control model of the built-in world."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.config.world import WorldConfig
    from vlmdiff.world.controls import train_control

    given, params = snakemake.input, snakemake.params
    train_control(
        WorldConfig(**params.world),
        params.kind,
        (Path(given.base_lm).parent, Path(given.vlm).parent),
        Path(given.log),
        Path(snakemake.output.model).parent,
        Path(snakemake.output.table),
        Path(params.checkpoints),
        params.code,
    )
