"""Train one dictionary at one layer."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.dictionaries.training import train_dictionary
    from vlmdiff.extraction.stream import open_stream

    given, params, layer = snakemake.input, snakemake.params, int(snakemake.wildcards.layer)
    initial = given.get("initial")
    train_dictionary(
        open_stream(given.model, given.samples, layer, params.stream) if params.stream else given.shards,
        Path(initial).parent if initial else "random",
        layer=layer,
        seed=params.seed,
        architecture=params.architecture,
        stage=params.stage,
        provenance=params.provenance,
        folder=Path(snakemake.output.weights).parent,
        checkpoints=params.checkpoints,
        code=params.code,
    )
