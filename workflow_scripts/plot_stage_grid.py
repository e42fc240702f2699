"""Draw rotations along the edges of the stage grid."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.save import save_figure
    from vlmdiff.figures.stages import stage_grid
    from vlmdiff.tables.features import STAGE_GRID
    from vlmdiff.tables.io import read_table

    figure = stage_grid(read_table(snakemake.input.grid, STAGE_GRID))
    save_figure(figure, [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
