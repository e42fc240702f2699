"""Collect samples on which features fire, fire half as strongly, and stay silent."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.explorer.examples import collect_examples
    from vlmdiff.interventions.inputs import ModelFiles

    given, params, made = snakemake.input, snakemake.params, snakemake.output
    collect_examples(
        ModelFiles(**params.model, config=given.model),
        given.samples,
        {name: given[name] for name in ("base", "adapted", "null") if given[name]},
        {"adapted": given.table, **{name: given[name] for name in ("final", "ranking", "pools")}},
        [made[name] for name in ("examples", "activations", "tokens", "bins", "neighbours")],
        **params.stage,
    )
