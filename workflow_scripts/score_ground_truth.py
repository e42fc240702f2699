"""Score every feature against the scene graphs of held-out scenes."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.runtime.seeds import derive_seed
    from vlmdiff.world.ground_truth import score_ground_truth

    given, params, seed = snakemake.input, snakemake.params, snakemake.wildcards.seed
    folders = [Path(file).parent for file in given.dictionaries]
    score_ground_truth(
        dict(zip(params.names, given.samples, strict=True)),
        params.layout,
        dict(zip(params.layers, folders, strict=True)),
        (snakemake.output.features, snakemake.output.scores),
        int(seed),
        derive_seed(params.seed, "score_ground_truth", seed),
    )
