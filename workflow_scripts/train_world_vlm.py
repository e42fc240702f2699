"""Tune the built-in world's aligned VLM on questions about images, with snapshots on the way."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.config.world import WorldConfig
    from vlmdiff.runtime.locks import claim
    from vlmdiff.world.leftovers import clear_leftovers
    from vlmdiff.world.tuning import settings_fingerprint, train_vlm

    world, aligned = WorldConfig(**snakemake.params.world), Path(snakemake.input.aligned).parent
    snapshots = dict(zip(snakemake.params.percentages, snakemake.output.models, strict=True))
    checkpoints = Path(snakemake.params.checkpoints)
    with claim(f"{checkpoints}.lock"):
        clear_leftovers(checkpoints, settings_fingerprint(world, aligned), world.tuning.check_every)
        train_vlm(
            world,
            aligned,
            {percent: Path(file).parent for percent, file in snapshots.items()},
            Path(snakemake.output.table),
            checkpoints,
        )
