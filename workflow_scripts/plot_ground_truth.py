"""Draw what final features really tell, and how good each selection rule is."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.ground_truth import ground_truth
    from vlmdiff.figures.save import save_figure
    from vlmdiff.tables.features import FINAL_FEATURES
    from vlmdiff.tables.io import read_tables
    from vlmdiff.tables.world import GROUND_TRUTH, RULE_QUALITY

    given = snakemake.input
    figure = ground_truth(
        read_tables(given.truth, GROUND_TRUTH),
        read_tables(given.final, FINAL_FEATURES),
        read_tables(given.quality, RULE_QUALITY),
    )
    save_figure(figure, [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
