"""Hold the scores of another method, from a file, against the scene graphs."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.runtime.seeds import derive_seed
    from vlmdiff.scoreboard.submission import score_submission

    given, params = snakemake.input, snakemake.params
    score_submission(
        given.file,
        given.truth,
        dict(zip(params.names, given.samples, strict=True)),
        params.layout,
        snakemake.output[0],
        derive_seed(params.seed, "score_submission"),
    )
