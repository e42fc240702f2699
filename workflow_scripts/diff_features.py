"""Compare the base dictionary with the adapted and the null one, feature by feature."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.features.diff import StatisticsFiles, diff_features

    given = snakemake.input
    folders = {key: [Path(file).parent for file in given[key]] for key in ("base", "adapted", "null")}
    diff_features(
        snakemake.params.layers,
        **folders,
        visual=StatisticsFiles(given.visual_statistics, given.visual_totals),
        text=StatisticsFiles(given.text_statistics, given.text_totals),
        seed=int(snakemake.wildcards.seed),
        output=snakemake.output[0],
    )
