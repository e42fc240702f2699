"""Rank a concept's final features by what their ablation does on validation data."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.interventions.inputs import ModelFiles, QuestionSets
    from vlmdiff.interventions.ranking import rank_features

    files, params = snakemake.input, snakemake.params
    rank_features(
        ModelFiles(**params.model, config=files.model),
        QuestionSets(files.target, files.control, **params.questions),
        files.dictionaries,
        files.final_features,
        snakemake.output[0],
        concept=snakemake.wildcards.concept,
        **params.stage,
    )
