"""Mean-ablate the top heads and random heads on test data."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.heads.head_arms import evaluate_head_ablation
    from vlmdiff.interventions.inputs import ModelFiles, QuestionSets
    from vlmdiff.runtime.seeds import derive_seed

    files, params, wildcards = snakemake.input, snakemake.params, snakemake.wildcards
    evaluate_head_ablation(
        ModelFiles(**params.model, config=files.model),
        QuestionSets(files.target, files.control, **params.questions, held_out=files.held_out),
        files.mean,
        files.scores,
        snakemake.output[0],
        concept=wildcards.concept,
        seed=derive_seed(params.seed, "evaluate_head_ablation", wildcards.seed, wildcards.concept),
        **params.stage,
    )
