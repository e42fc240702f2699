"""Ablate the first features of every selection rule of a comparison on test data."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.interventions.inputs import ModelFiles, QuestionSets
    from vlmdiff.interventions.selection_rules import evaluate_selection
    from vlmdiff.runtime.seeds import derive_seed

    files, params, wildcards = snakemake.input, snakemake.params, snakemake.wildcards
    evaluate_selection(
        ModelFiles(**params.model, config=files.model),
        QuestionSets(files.target, files.control, **params.questions, held_out=files.held_out),
        files.dictionaries,
        {name: files[name] for name in ("adapted", "contrast", "lexical")},
        {name: files[name] for name in ("statistics", "totals")},
        snakemake.output[0],
        comparison=wildcards.comparison,
        concept=wildcards.concept,
        seed=derive_seed(params.seed, "evaluate_selection", wildcards.seed, wildcards.concept),
        **params.stage,
    )
