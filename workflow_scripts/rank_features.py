"""Rank a concept's final features, and random pools alike, by what their ablation does on validation data."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.interventions.inputs import ModelFiles, QuestionSets
    from vlmdiff.interventions.ranking import rank_features
    from vlmdiff.runtime.seeds import derive_seed

    files, params, wildcards = snakemake.input, snakemake.params, snakemake.wildcards
    rank_features(
        ModelFiles(**params.model, config=files.model),
        QuestionSets(files.target, files.control, **params.questions),
        files.dictionaries,
        {name: files[name] for name in ("final_features", "contrast")},
        (snakemake.output.ranking, snakemake.output.pools),
        concept=wildcards.concept,
        seed=derive_seed(params.seed, "rank_features", wildcards.seed, wildcards.concept),
        **params.stage,
    )
