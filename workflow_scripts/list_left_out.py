"""List the tokens that are left out of all activations."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.summary.left_out import list_left_out

    list_left_out(snakemake.params.parts, snakemake.output[0])
