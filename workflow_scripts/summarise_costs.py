"""Sum what the jobs of each rule took."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.summary.costs import summarise_costs

    summarise_costs(snakemake.params.folder, snakemake.output[0])
