"""Find the strongest samples of the best features, and what the patches of their pictures add."""

from pathlib import Path

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.explorer.gallery import write_patches
    from vlmdiff.figures.gallery_table import make_gallery
    from vlmdiff.interventions.inputs import ModelFiles

    given, params, made = snakemake.input, snakemake.params, snakemake.output
    gallery = make_gallery(
        given.top_samples,
        given.ranking,
        given.final,
        given.samples,
        Path(given.model).parent,
        made.table,
        concept=snakemake.wildcards.concept,
        seed=int(snakemake.wildcards.seed),
        groups=params.groups,
        features=params.features,
        samples=params.samples,
    )
    folders = {
        layer: Path(file).parent for layer, file in zip(params.layers, given.dictionaries, strict=True)
    }
    model = ModelFiles(**params.model, config=given.model)
    write_patches(gallery, model, given.samples, folders, **params.reading, output=made.patches)
