"""Test which features a change of the image turns as it turns a label."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.data.samples import load_samples
    from vlmdiff.features.counterfactual import write_counterfactual
    from vlmdiff.features.separate import counted_samples

    given, params = snakemake.input, snakemake.params
    target, (count, *counts) = params.target, params.samples
    file, *files = given.samples
    folders = [Path(file).parent for file in given.dictionaries]
    write_counterfactual(
        snakemake.wildcards.concept,
        counted_samples(file, count, target["groups"], target["without"]),
        [{one.sample_id for one in load_samples(*pair)} for pair in zip(files, counts, strict=True)],
        tuple(params.layout),
        dict(zip(params.layout[0], folders, strict=True)),
        params.criteria,
        snakemake.output[0],
    )
