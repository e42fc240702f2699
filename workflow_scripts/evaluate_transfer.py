"""Ablate the directions of the main comparison in the model at other stages of its training."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.interventions.inputs import ModelFiles, QuestionSets
    from vlmdiff.interventions.transfer import evaluate_transfer
    from vlmdiff.runtime.seeds import derive_seed

    files, params, wildcards = snakemake.input, snakemake.params, snakemake.wildcards
    evaluate_transfer(
        [
            ModelFiles(**model, config=config)
            for model, config in zip(params.models, files.models, strict=True)
        ],
        QuestionSets(files.target, files.control, **params.questions, held_out=files.held_out),
        files.dictionaries,
        {name: files[name] for name in ("ranking", "pools")},
        snakemake.output[0],
        concept=wildcards.concept,
        seed=derive_seed(params.seed, "evaluate_transfer", wildcards.seed, wildcards.concept),
        **params.stage,
    )
