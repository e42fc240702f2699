"""Draw the strongest samples of the best features on their images."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.gallery import top_samples
    from vlmdiff.figures.save import save_figure
    from vlmdiff.tables.explorer import GALLERY_PATCHES
    from vlmdiff.tables.features import GALLERY
    from vlmdiff.tables.io import read_table

    figure = top_samples(
        read_table(snakemake.input.gallery, GALLERY), read_table(snakemake.input.patches, GALLERY_PATCHES)
    )
    save_figure(figure, [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
