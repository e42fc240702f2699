"""Tune an adapter of a real language model, with snapshots on the way."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.config.world import WorldConfig
    from vlmdiff.world.real.tuning import Files, tune

    given, params = snakemake.input, snakemake.params
    folders = [Path(file).parent for file in snakemake.output.adapters]
    tune(
        WorldConfig(**params.world),
        params.kind,
        Files(Path(given.base[0]).parent, Path(given.tower[0]).parent, Path(given.frame), Path(given.texts)),
        dict(zip(params.percentages, folders, strict=True)),
        Path(snakemake.output.table),
        Path(params.checkpoints),
        params.code,
    )
