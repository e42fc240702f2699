"""Hold a ranking against what features really tell."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.scoreboard.scores import score_ranking

    given = snakemake.input
    score_ranking(given.ranking, given.truth, snakemake.output[0], int(snakemake.wildcards.seed))
