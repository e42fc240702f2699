"""Draw how findings recur over seeds."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.confidence import recurrence
    from vlmdiff.figures.save import save_figure
    from vlmdiff.tables.features import RECURRENCE
    from vlmdiff.tables.io import read_table

    figure = recurrence(read_table(snakemake.input.recurrence, RECURRENCE))
    save_figure(figure, [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
