"""Draw what the jobs of each rule took."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.costs import costs
    from vlmdiff.figures.save import save_figure
    from vlmdiff.tables.costs import COSTS
    from vlmdiff.tables.io import read_table

    figure = costs(read_table(snakemake.input.costs, COSTS))
    save_figure(figure, [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
