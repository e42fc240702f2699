"""Draw how dictionaries and model change while they are trained."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.dictionaries import training_dynamics
    from vlmdiff.figures.save import save_figure
    from vlmdiff.figures.values import of_models, read_some
    from vlmdiff.tables.models import ACCURACY, DICTIONARY_METRICS

    figure = training_dynamics(
        read_some(snakemake.input.metrics, DICTIONARY_METRICS),
        of_models(read_some(snakemake.input.accuracy, ACCURACY), snakemake.params.checkpoints),
        snakemake.params.snapshots,
    )
    save_figure(figure, [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
