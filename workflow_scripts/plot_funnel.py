"""Draw the features that each filter leaves."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.concepts import funnel
    from vlmdiff.figures.save import save_figure
    from vlmdiff.tables.features import FUNNEL
    from vlmdiff.tables.io import read_table

    figure = funnel(
        read_table(snakemake.input.funnel, FUNNEL),
    )
    save_figure(figure, [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
