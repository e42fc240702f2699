"""Convert one layer of a published dictionary."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from pathlib import Path

    from vlmdiff.dictionaries.importing import expected_width, import_dictionary

    params, initial = snakemake.params, snakemake.input.get("initial")
    import_dictionary(
        snakemake.input.sources,
        layer=int(snakemake.wildcards.layer),
        format=params.format,
        options=params.options,
        shape=(expected_width(snakemake.input.model, params.format), params.d_sae),
        facts=params.facts,
        folder=Path(snakemake.output.weights).parent,
        initial=Path(initial[0]).parent if initial else None,
        models=params.models,
        needs_scale=params.needs_scale,
    )
