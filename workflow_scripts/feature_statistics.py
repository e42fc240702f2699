"""Count and sum what the features of one dictionary do on one data set at some layers."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.features.statistics import feature_statistics

    given, output, params = snakemake.input, snakemake.output, snakemake.params
    tables = zip(output.statistics, output.totals, output.top_samples, strict=True)
    for layer, weights, outputs in zip(params.layers, given.dictionaries, tables, strict=True):
        feature_statistics(given.shards, Path(weights).parent, layer, outputs, params.top)
