"""Estimate the input scale of all trainings that start from an imported dictionary, at some layers."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.dictionaries.scales import estimate_from_stream, estimate_input_scale
    from vlmdiff.extraction.stream import open_passes

    given, params = snakemake.input, snakemake.params
    estimates = [
        {
            "layer": layer,
            "seed": params.seed[place],
            "tokens": params.tokens,
            "facts": params.facts,
            "output": snakemake.output.scale[place],
        }
        for place, layer in enumerate(params.layers)
    ]
    if params.stream:
        estimate_from_stream(open_passes(given.model, given.samples, params.stream), estimates)
    for one in () if params.stream else estimates:
        estimate_input_scale(list(given.shards), **one)
