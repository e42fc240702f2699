"""Steer a model by CAA vectors, features and random directions."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.interventions.inputs import ModelFiles, QuestionSets
    from vlmdiff.interventions.steering import evaluate_steering
    from vlmdiff.runtime.seeds import derive_seed

    files, params, wildcards = snakemake.input, snakemake.params, snakemake.wildcards
    evaluate_steering(
        ModelFiles(**params.model, config=files.model),
        QuestionSets(files.rank_target, files.rank_control, **params.validation),
        QuestionSets(files.target, files.control, **params.test, held_out=files.held_out),
        files.dictionaries,
        files.ranking,
        snakemake.output[0],
        concept=wildcards.concept,
        seed=derive_seed(params.seed, "evaluate_steering", wildcards.seed, wildcards.concept),
        **params.stage,
    )
