"""Write the experiment's summary in words and numbers."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.summary.causal import Headline
    from vlmdiff.summary.front import summary_page
    from vlmdiff.summary.write import Names, write_summary

    fixed = snakemake.params.headline
    names = Names(**snakemake.params.names, headline=Headline(**fixed) if fixed else None)
    write_summary(snakemake.output.text, names, **dict(snakemake.input.items()))
    text = Path(snakemake.output.text).read_text()
    Path(snakemake.output.page).write_text(summary_page(text, f"Summary of {names.experiment}"))
