"""Draw the test effects of ablated heads."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.effects import head_ablation
    from vlmdiff.figures.save import save_figure
    from vlmdiff.tables.causal import HEAD_ABLATION
    from vlmdiff.tables.io import read_table

    figure = head_ablation(
        read_table(snakemake.input.ablation, HEAD_ABLATION),
        snakemake.params.target,
        snakemake.params.control,
    )
    save_figure(figure, [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
