"""Compare dictionaries at the corners of the stage grid, feature by feature."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.features.grid import compare_stages

    given, params = snakemake.input, snakemake.params
    compare_stages(
        params.layers,
        {name: [Path(file).parent for file in given[name]] for name in params.corners},
        given.adapted,
        given.final,
        int(snakemake.wildcards.seed),
        snakemake.output[0],
    )
