"""Write one data set of the built-in world: drawn scenes, prompts and answers."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.config.world import WorldConfig
    from vlmdiff.world.datasets import write_dataset

    write_dataset(
        WorldConfig(**snakemake.params.world),
        snakemake.wildcards.dataset,
        Path(snakemake.output.samples),
        Path(snakemake.output.images),
    )
