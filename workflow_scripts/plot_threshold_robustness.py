"""Draw how the selection moves with its thresholds."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.save import save_figure
    from vlmdiff.figures.thresholds import threshold_robustness
    from vlmdiff.figures.values import read_some
    from vlmdiff.tables.features import THRESHOLD_SWEEP

    figure = threshold_robustness(
        read_some(snakemake.input.sweep, THRESHOLD_SWEEP),
        snakemake.params.eps,
        snakemake.params.percentile,
    )
    save_figure(figure, [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
