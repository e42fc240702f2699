"""Draw what the same directions do at other stages of the model."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.save import save_figure
    from vlmdiff.figures.stages import transfer
    from vlmdiff.tables.causal import TRANSFER
    from vlmdiff.tables.io import read_table

    table = read_table(snakemake.input.transfer, TRANSFER)
    figure = transfer(table, snakemake.params.target, snakemake.params.control)
    save_figure(figure, [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
