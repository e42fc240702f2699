"""Measure the held-out accuracy of the built-in world's models, with images, without, and shuffled."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.world.evaluation import evaluate_models

    models, datasets = snakemake.params.models, snakemake.params.datasets
    evaluate_models(
        {name: Path(file).parent for name, file in zip(models, snakemake.input.models, strict=True)},
        dict(zip(datasets, map(Path, snakemake.input.samples), strict=True)),
        snakemake.params.seed,
        Path(snakemake.output.table),
    )
