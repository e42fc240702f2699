"""Score one dictionary, all layers and snapshots, on held-out activations."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.dictionaries.evaluation import evaluate_dictionary

    params, layers = snakemake.params, snakemake.params.layers
    evaluate_dictionary(
        folders={layer: Path(file).parent for layer, file in zip(layers, snakemake.input.weights)},
        initials={layer: Path(file).parent for layer, file in zip(layers, snakemake.input.initial)},
        snapshots=params.snapshots,
        sets=params.sets,
        dictionary=snakemake.wildcards.dictionary,
        seed=int(snakemake.wildcards.seed),
        output=snakemake.output[0],
    )
