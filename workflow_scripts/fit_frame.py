"""Fit the frame of a vision-language model around a real language model."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.config.world import WorldConfig
    from vlmdiff.world.real.frame import fit_frame

    given, made = snakemake.input, snakemake.output
    fit_frame(
        WorldConfig(**snakemake.params.world),
        Path(given.base[0]).parent,
        Path(given.tower[0]).parent,
        (Path(made.frame), Path(made.table)),
    )
