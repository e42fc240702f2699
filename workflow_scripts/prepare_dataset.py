"""Prepare a data set: from a public source, from a folder, or as part of another one."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.config.parts import Parts
    from vlmdiff.data.prepare import prepare_dataset
    from vlmdiff.data.subset import Source

    given, source = snakemake.input, snakemake.params.source
    prepare_dataset(
        snakemake.wildcards.dataset,
        snakemake.params.entry,
        snakemake.output.samples,
        snakemake.output.counts,
        source and Source(given.sources[0], source["samples"], Parts(**source["parts"]), source["root"]),
    )
