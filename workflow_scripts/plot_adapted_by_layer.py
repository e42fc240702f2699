"""Draw the number of adapted features by layer."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.adapted import adapted_by_layer
    from vlmdiff.figures.save import save_figure
    from vlmdiff.figures.values import read_some
    from vlmdiff.tables.features import THRESHOLDS

    figure = adapted_by_layer(read_some(snakemake.input.thresholds, THRESHOLDS))
    save_figure(figure, [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
