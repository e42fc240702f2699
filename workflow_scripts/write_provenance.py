"""Write where the results of the experiment come from."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.summary.provenance import write_provenance

    write_provenance(snakemake.params.experiment, snakemake.output[0])
