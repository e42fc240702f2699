"""Train one dictionary at some layers."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.dictionaries.one_pass import train_from_shards, train_in_passes
    from vlmdiff.extraction.stream import open_passes

    given, params, resources = snakemake.input, snakemake.params, snakemake.resources
    trainings = [
        {
            "initial": Path(given.initial[place]).parent if given.initial else "random",
            "layer": layer,
            "seed": params.seed[place],
            "order": params.order[place],
            "architecture": params.architecture,
            "stage": params.stage,
            "provenance": params.provenance,
            "folder": Path(snakemake.output.weights[place]).parent,
            "checkpoints": f"{params.checkpoints}/layer_{layer}",
            "kept": f"{params.kept}/layer_{layer}",
            "code": params.code,
            "checkpoint_every_s": resources.get("checkpoint_every_s"),
            "scale_file": given.scale[place] if given.scale else None,
        }
        for place, layer in enumerate(params.layers)
    ]
    if params.stream:
        passes = open_passes(given.model, given.samples, params.stream)
        train_in_passes(passes, trainings, resources.mem_mb * 1e6)
    else:
        train_from_shards(list(given.shards), trainings, snakemake.threads)
