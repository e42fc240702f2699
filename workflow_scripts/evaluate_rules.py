"""Hold every selection rule against the features that really tell what is where."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.world.ground_truth import evaluate_rules

    given, params, wildcards = snakemake.input, snakemake.params, snakemake.wildcards
    evaluate_rules(
        given.truth,
        {name: given[name] for name in ("adapted", "contrast", "lexical")},
        snakemake.output[0],
        wildcards.concept,
        params.unit,
        params.eps,
        int(wildcards.seed),
    )
