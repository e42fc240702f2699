"""Draw the strongest samples of the best features on their images, and write the table behind them."""

from pathlib import Path

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.gallery import top_samples
    from vlmdiff.figures.gallery_table import make_gallery
    from vlmdiff.figures.save import save_figure

    gallery = make_gallery(
        snakemake.input.top_samples,
        snakemake.input.ranking,
        snakemake.input.final,
        snakemake.input.samples,
        Path(snakemake.input.model).parent,
        snakemake.output.table,
        concept=snakemake.wildcards.concept,
        seed=int(snakemake.wildcards.seed),
        groups=snakemake.params.groups,
        features=snakemake.params.features,
        samples=snakemake.params.samples,
    )
    save_figure(top_samples(gallery), [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
