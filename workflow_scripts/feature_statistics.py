"""Count and sum what the features of one dictionary do on one data set at one layer."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.features.statistics import feature_statistics

    output = snakemake.output
    feature_statistics(
        snakemake.input.shards,
        Path(snakemake.input.dictionary).parent,
        int(snakemake.wildcards.layer),
        (output.statistics, output.totals, output.top_samples),
        snakemake.params.top,
    )
