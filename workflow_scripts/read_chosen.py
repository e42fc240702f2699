"""Read features of the user's own, to be ablated as a concept's final ones are."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.interventions.chosen import read_chosen

    read_chosen(snakemake.input[0], snakemake.params.layers, snakemake.output[0])
