"""Rank the features of a comparison under each selection rule."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.scoreboard.ranking import rank_findings

    tables = {name: snakemake.input[name] for name in ("adapted", "contrast", "lexical")}
    rank_findings(tables, snakemake.output[0], **snakemake.params.criteria)
