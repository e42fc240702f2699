"""Decide which features count as adapted, by both rules."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.features.adapted import select_adapted

    output = snakemake.output
    select_adapted(
        snakemake.input[0], (output.adapted, output.thresholds, output.sweep), **snakemake.params.diff
    )
