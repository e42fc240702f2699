"""Put all comparisons of a target side by side."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.summary.comparisons import ComparisonFiles, summarise_comparisons

    given, params = snakemake.input, snakemake.params
    tables = ("thresholds", "funnel", "check", "final", "selection")
    layers, found = params.layers, []
    for i, entry in enumerate(params.entries):
        dictionaries = given.dictionaries[i * len(layers) : (i + 1) * len(layers)]
        folders = dict(zip(layers, [Path(file).parent for file in dictionaries], strict=True))
        paths = {name: given[name][i] for name in tables if given[name]}
        found.append(ComparisonFiles(**entry, tables=paths, dictionaries=folders))
    summarise_comparisons(found, snakemake.wildcards.concept, tuple(params.data), snakemake.output[0])
