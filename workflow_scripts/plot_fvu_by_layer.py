"""Draw held-out FVU by layer."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.dictionaries import fvu_by_layer
    from vlmdiff.figures.save import save_figure
    from vlmdiff.figures.values import read_some
    from vlmdiff.tables.models import DICTIONARY_METRICS

    figure = fvu_by_layer(
        read_some(snakemake.input.metrics, DICTIONARY_METRICS),
    )
    save_figure(figure, [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
