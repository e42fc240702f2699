"""Draw effect against significance of the concept contrast."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.concepts import contrast_volcano
    from vlmdiff.figures.save import save_figure
    from vlmdiff.tables.features import ADAPTED, CONTRAST, FINAL_FEATURES
    from vlmdiff.tables.io import read_table

    figure = contrast_volcano(
        read_table(snakemake.input.contrast, CONTRAST),
        read_table(snakemake.input.adapted, ADAPTED),
        read_table(snakemake.input.final, FINAL_FEATURES),
        snakemake.params.by,
        snakemake.params.smallest,
    )
    save_figure(figure, [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
