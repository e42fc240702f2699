"""Draw visual energy against decoder cosine."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.adapted import energy_vs_cosine
    from vlmdiff.figures.save import save_figure
    from vlmdiff.tables.features import ADAPTED, FINAL_FEATURES, THRESHOLDS
    from vlmdiff.tables.io import read_table

    figure = energy_vs_cosine(
        read_table(snakemake.input.adapted, ADAPTED),
        read_table(snakemake.input.thresholds, THRESHOLDS),
        read_table(snakemake.input.final, FINAL_FEATURES),
    )
    save_figure(figure, [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
