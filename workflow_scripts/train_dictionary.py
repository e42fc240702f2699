"""Train one dictionary at one layer."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.dictionaries.training import train_dictionary

    initial = snakemake.input.get("initial")
    train_dictionary(
        snakemake.input.shards,
        Path(initial).parent if initial else "random",
        layer=int(snakemake.wildcards.layer),
        seed=snakemake.params.seed,
        architecture=snakemake.params.architecture,
        stage=snakemake.params.stage,
        provenance=snakemake.params.provenance,
        folder=Path(snakemake.output.weights).parent,
        checkpoints=snakemake.params.checkpoints,
        code=snakemake.params.code,
    )
