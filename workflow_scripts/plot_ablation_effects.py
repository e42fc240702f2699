"""Draw the test effects of ablated features and sets."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.effects import ablation_effects
    from vlmdiff.figures.save import save_figure
    from vlmdiff.tables.causal import ABLATION
    from vlmdiff.tables.io import read_tables

    figure = ablation_effects(
        read_tables(snakemake.input.ablation, ABLATION),
        snakemake.params.target,
        snakemake.params.control,
    )
    save_figure(figure, [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
