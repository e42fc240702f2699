"""Test which features tell the values of a label apart where the text is the same."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.features.separate import counted_samples
    from vlmdiff.features.text_matched import write_text_matched

    given, params = snakemake.input, snakemake.params
    target = params.target
    folders = [Path(file).parent for file in given.dictionaries]
    write_text_matched(
        snakemake.wildcards.concept,
        counted_samples(given.samples, params.samples, target["groups"], target["without"]),
        params.layout,
        dict(zip(params.layout, folders, strict=True)),
        params.criteria,
        snakemake.output[0],
    )
