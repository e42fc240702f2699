"""Write the experiment's summary in words and numbers."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.summary.causal import Headline
    from vlmdiff.summary.write import Names, write_summary

    fixed = snakemake.params.headline
    names = Names(**snakemake.params.names, headline=Headline(**fixed) if fixed else None)
    write_summary(snakemake.output[0], names, **dict(snakemake.input.items()))
