"""Draw what each selection rule's features do."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.confidence import selection_rules
    from vlmdiff.figures.save import save_figure
    from vlmdiff.tables.causal import SELECTION
    from vlmdiff.tables.io import read_tables

    table = read_tables(snakemake.input.selection, SELECTION)
    table = table[table["concept"] == snakemake.wildcards.concept]
    params = snakemake.params
    figure = selection_rules(table, (params.target, params.control), params.sizes, params.rules)
    save_figure(figure, [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
