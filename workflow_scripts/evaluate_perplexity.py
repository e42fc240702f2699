"""Measure how well models read plain text, each held against the first."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.interventions.inputs import ModelFiles
    from vlmdiff.interventions.perplexity import evaluate_perplexity

    files, params = snakemake.input, snakemake.params
    models = zip(params.models, files.model, strict=True)
    evaluate_perplexity(
        [ModelFiles(**named, config=config) for named, config in models],
        files.samples,
        params.dataset,
        params.batch_tokens,
        params.seed,
        snakemake.output[0],
    )
