"""Write the experiment's summary in words and numbers."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.summary.write import Names, write_summary

    write_summary(snakemake.output[0], Names(**snakemake.params.names), **dict(snakemake.input.items()))
