"""Score each attention head over all traced features."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.heads.aggregate import aggregate_heads

    aggregate_heads(snakemake.input[0], snakemake.output[0], concept=snakemake.wildcards.concept)
