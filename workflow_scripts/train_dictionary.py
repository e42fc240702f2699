"""Train one dictionary at one layer."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.dictionaries.launch import train_in_processes
    from vlmdiff.dictionaries.training import train_dictionary
    from vlmdiff.extraction.stream import open_stream

    given, params, layer = snakemake.input, snakemake.params, int(snakemake.wildcards.layer)
    initial, stage = given.get("initial"), params.stage
    settings = {
        "initial": Path(initial).parent if initial else "random",
        "layer": layer,
        "seed": params.seed,
        "architecture": params.architecture,
        "stage": stage,
        "provenance": params.provenance,
        "folder": Path(snakemake.output.weights).parent,
        "checkpoints": params.checkpoints,
        "code": params.code,
        "checkpoint_every_s": snakemake.resources.get("checkpoint_every_s"),
        "scale_file": given.get("scale") or None,
    }
    if stage["devices"] * stage["nodes"] > 1:
        train_in_processes({"activations": list(given.shards), **settings}, snakemake.threads)
    elif params.stream:
        train_dictionary(open_stream(given.model, given.samples, layer, params.stream), **settings)
    else:
        train_dictionary(given.shards, **settings)
