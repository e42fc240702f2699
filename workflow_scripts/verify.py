"""Compare every stored result of the experiment with the checksum that its job recorded."""

from vlmdiff.runtime.job import job

with job(snakemake) as log:
    from vlmdiff.runtime.verification import verify

    verify(snakemake.params.experiment)
