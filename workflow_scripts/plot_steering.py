"""Draw the dose-response of steering."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.save import save_figure
    from vlmdiff.figures.steering import steering
    from vlmdiff.tables.causal import STEERING
    from vlmdiff.tables.io import read_table

    table = read_table(snakemake.input[0], STEERING)
    figure = steering(table, snakemake.params.target, snakemake.params.control)
    save_figure(figure, [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
