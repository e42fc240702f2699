"""Compare the base dictionary with the adapted and the null one, feature by feature."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.features.diff import StatisticsFiles, diff_features

    given = snakemake.input
    names = {
        "base": "base",
        "adapted": "adapted",
        "null": "null",
        "check": "null_check",
        "untuned": "untuned",
    }
    folders = {name: [Path(file).parent for file in given[key]] for name, key in names.items()}
    diff_features(
        snakemake.params.layers,
        snakemake.params.method,
        **folders,
        visual=StatisticsFiles(given.visual_statistics, given.visual_totals),
        text=StatisticsFiles(given.text_statistics, given.text_totals),
        # Of a drift.
        before=StatisticsFiles(given.before_statistics, given.before_totals),
        tuned_on_text=StatisticsFiles(given.null_statistics, given.null_totals),
        scaling=given.scaling or None,
        seed=int(snakemake.wildcards.seed),
        output=snakemake.output[0],
    )
