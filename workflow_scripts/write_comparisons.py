"""Write the page of a target's comparisons."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.summary.write import write_comparisons

    write_comparisons(
        snakemake.input.comparisons,
        snakemake.input.accuracy,
        snakemake.params.checkpoints,
        snakemake.wildcards.target,
        snakemake.params.experiment,
        snakemake.output[0],
        snakemake.params.ablated,
    )
