"""Put all methods, contrasts, rules and seeds side by side."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.scoreboard.board import summarise_scoreboard

    output, params = snakemake.output, snakemake.params
    summarise_scoreboard(
        params.methods,
        params.submissions,
        params.controls,
        (output.board, output.limits, output.finds, output.page),
        params.benchmarks,
        params.data,
        params.layers,
        params.experiment,
    )
