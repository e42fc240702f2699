"""Draw attribution against exact patching."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.heads import attribution_vs_exact
    from vlmdiff.figures.save import save_figure
    from vlmdiff.tables.causal import HEAD_AGREEMENT, HEAD_ATTRIBUTION, HEAD_PATCHING
    from vlmdiff.tables.io import read_table

    figure = attribution_vs_exact(
        read_table(snakemake.input.attribution, HEAD_ATTRIBUTION),
        read_table(snakemake.input.patching, HEAD_PATCHING),
        read_table(snakemake.input.agreement, HEAD_AGREEMENT),
    )
    save_figure(figure, [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
