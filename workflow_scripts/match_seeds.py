"""Look for the final features of each seed in the dictionaries of the other seeds."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.features.recurrence import SeedFiles, match_seeds

    given, layers = snakemake.input, snakemake.params.layers
    folders = [Path(file).parent for file in given.dictionaries]
    by_seed = [folders[start : start + len(layers)] for start in range(0, len(folders), len(layers))]
    seeds = [
        SeedFiles(dict(zip(layers, dictionaries, strict=True)), adapted, final)
        for dictionaries, adapted, final in zip(by_seed, given.adapted, given.final, strict=True)
    ]
    match_seeds(snakemake.wildcards.concept, seeds, snakemake.output[0])
