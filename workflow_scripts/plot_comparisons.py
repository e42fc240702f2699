"""Draw all comparisons of a target side by side."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.confidence import comparisons
    from vlmdiff.figures.save import save_figure
    from vlmdiff.tables.features import COMPARISONS
    from vlmdiff.tables.io import read_table

    table = read_table(snakemake.input.comparisons, COMPARISONS)
    figure = comparisons(table, snakemake.params.ablated)
    save_figure(figure, [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
