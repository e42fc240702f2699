"""Prepare a data set from a public source."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.data.prepare import prepare_dataset

    prepare_dataset(
        snakemake.wildcards.dataset,
        snakemake.params.entry,
        snakemake.output.samples,
        snakemake.output.counts,
    )
