"""Write the checkpoint of a real language model with what it was taught."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.world.real.merging import write_checkpoint

    given, params = snakemake.input, snakemake.params
    write_checkpoint(
        Path(given.base[0]).parent,
        Path(snakemake.output.model).parent,
        params.dtype,
        seeing=None if params.reads else (Path(given.tower[0]).parent, Path(given.frame)),
        adapter=Path(given.adapter[0]).parent if given.adapter else None,
    )
