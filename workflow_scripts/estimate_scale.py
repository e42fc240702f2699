"""Estimate the input scale of all trainings that start from an imported dictionary."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.dictionaries.scales import estimate_input_scale
    from vlmdiff.extraction.stream import open_stream

    given, params, layer = snakemake.input, snakemake.params, int(snakemake.wildcards.layer)
    streamed = open_stream(given.model, given.samples, layer, params.stream) if params.stream else None
    estimate_input_scale(
        streamed or list(given.shards),
        layer=layer,
        seed=params.seed,
        tokens=params.tokens,
        facts=params.facts,
        output=snakemake.output.scale,
    )
