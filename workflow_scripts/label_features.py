"""Label the final features of a concept by words, traits and the logit lens."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.features.labels import LabelCriteria, label_features
    from vlmdiff.models.registry import load_subject

    given, params = snakemake.input, snakemake.params
    folders = [Path(file).parent for file in given.dictionaries]
    label_features(
        snakemake.wildcards.concept,
        int(snakemake.wildcards.seed),
        given.final,
        given.samples,
        params.layout,
        dict(zip(params.layers, folders, strict=True)),
        load_subject(params.model["name"], params.model["values"], Path(given.model).parent),
        LabelCriteria(**params.criteria),
        (snakemake.output.labels, snakemake.output.evidence, snakemake.output.chosen),
    )
