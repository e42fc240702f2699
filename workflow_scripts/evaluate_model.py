"""Ask a model its test questions with their images, without any, and with those of other samples."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.interventions.accuracy import evaluate_model
    from vlmdiff.interventions.inputs import ModelFiles

    files, params = snakemake.input, snakemake.params
    evaluate_model(
        ModelFiles(**params.model, config=files.model),
        files.samples,
        files.held_out,
        snakemake.output[0],
        seed=params.seed,
        **params.questions,
    )
