"""Find or download the files of a published dictionary."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.dictionaries.importing import fetch_dictionary

    fetch_dictionary(
        snakemake.params.source, snakemake.params.format, snakemake.params.files, snakemake.output.sources
    )
