"""Hold a ranking against what features really tell."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.scoreboard.scores import score_ranking

    given, outputs = snakemake.input, (snakemake.output.scores, snakemake.output.limits)
    seed = int(snakemake.wildcards.seed)
    score_ranking(given.ranking, given.truth, outputs, snakemake.params.by_effect_size, seed)
