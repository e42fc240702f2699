"""Draw layer x head maps of attribution."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.heads import head_attribution
    from vlmdiff.figures.save import save_figure
    from vlmdiff.tables.causal import HEAD_ATTRIBUTION, HEAD_SCORES
    from vlmdiff.tables.io import read_table

    figure = head_attribution(
        read_table(snakemake.input.attribution, HEAD_ATTRIBUTION),
        read_table(snakemake.input.scores, HEAD_SCORES),
    )
    save_figure(figure, [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
