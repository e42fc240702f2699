"""Draw the accuracies of the models beside chance."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.models import model_accuracy
    from vlmdiff.figures.save import save_figure
    from vlmdiff.figures.values import of_models, read_some, with_asked
    from vlmdiff.tables.models import ACCURACY

    world = of_models(read_some(snakemake.input.accuracy, ACCURACY), snakemake.params.checkpoints)
    table = with_asked(world, read_some(snakemake.input.asked, ACCURACY))
    figure = model_accuracy(table, snakemake.params.model)
    save_figure(figure, [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
