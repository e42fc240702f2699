"""Write the explorer: a page on which every feature can be found and looked at."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.explorer.columns import ConceptTables, OtherComparison
    from vlmdiff.explorer.details import DetailTables
    from vlmdiff.explorer.write import write_explorer

    given, params = snakemake.input, snakemake.params
    write_explorer(
        snakemake.output[0],
        params.experiment,
        given.adapted,
        given.thresholds,
        params.rule,
        {name: ConceptTables(**tables) for name, tables in params.concepts.items()},
        given.truth,
        params.target,
        {name: OtherComparison(**other) for name, other in params.others.items()},
        DetailTables.of(**params.details) if params.details else None,
        params.picture_pixels,
        params.compared,
    )
