"""Ablate ranked features and matched random ones on test data."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.interventions.ablation_arms import evaluate_ablation
    from vlmdiff.interventions.inputs import ModelFiles, QuestionSets
    from vlmdiff.runtime.seeds import derive_seed

    files, params, wildcards = snakemake.input, snakemake.params, snakemake.wildcards
    evaluate_ablation(
        ModelFiles(**params.model, config=files.model),
        QuestionSets(files.target, files.control, **params.questions, held_out=files.held_out),
        files.dictionaries,
        {name: files[name] for name in ("ranking", "pools")},
        snakemake.output[0],
        concept=wildcards.concept,
        scope=wildcards.scope,
        seed=derive_seed(params.seed, "evaluate_ablation", wildcards.seed, wildcards.concept),
        **params.stage,
    )
