"""Draw the attention of the top heads over the images."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.gallery import attention_map
    from vlmdiff.figures.gallery_table import sample_rows
    from vlmdiff.figures.save import save_figure
    from vlmdiff.tables.causal import HEAD_ATTENTION
    from vlmdiff.tables.io import read_table

    figure = attention_map(
        read_table(snakemake.input.attention, HEAD_ATTENTION), sample_rows(snakemake.input.samples)
    )
    save_figure(figure, [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
