"""Residual streams of a model shown a data set: one HDF5 shard for each block of samples and group of layers."""

from vlmdiff.config.storage import planned_series, stored_tokens, training_only
from vlmdiff.config.subsets import may_have_fewer

STREAMED = CFG.extraction.store == "stream"
TEMPORARY = CFG.extraction.store != "keep"
ACTIVATIONS = results("activations/{model}/{dataset}/{layers}")


def finished_groups(wildcards):
    """Return the dictionaries that must be trained before more training data are stored; none to keep all.

    Training data of one group of layers are on disk at a time.
    """
    groups = list(FILES.layer_groups)
    number = groups.index(wildcards.layers)
    if not TEMPORARY or number == 0 or not training_only(CFG, wildcards.model, wildcards.dataset):
        return []
    series = (wildcards.model, wildcards.dataset)
    return [
        ancient(FILES.dictionary(name, seed, layer))
        for name, seeds in CFG.default_dictionaries().items()
        for seed in range(seeds)
        for layer in FILES.layer_groups[groups[number - 1]]
        if (CFG.dictionaries[name].model, CFG.dictionaries[name].dataset) == series
    ]


rule extract_activations:
    """Store what a model's layers hold while it reads a block of a data set's samples."""
    input:
        samples=lambda wildcards: FILES.samples(wildcards.dataset),
        model=lambda wildcards: FILES.model(wildcards.model),
        weights=lambda wildcards: FILES.weights(wildcards.model),
        # Only to bound the disk that temporary shards take: these files are not read.
        after=finished_groups,
    output:
        # Deleted when nothing needs it any more, if the configuration says so.
        shard=(temp if TEMPORARY else str)(f"{ACTIVATIONS}/shard_{{block}}.h5"),
        left_out=f"{ACTIVATIONS}/left_out_{{block}}.csv",
    wildcard_constraints:
        layers=one_of(FILES.layer_groups),
    threads: CFG.threads
    params:
        samples=lambda wildcards: CFG.dataset(wildcards.dataset).samples,
        fewer=lambda wildcards: may_have_fewer(wildcards.dataset, CFG.all_datasets()),
        subject=lambda wildcards: FILES.subject(wildcards.model),
        extraction=CFG.extraction.params("store", "layers_at_once"),
        layers=lambda wildcards: FILES.layer_groups[wildcards.layers],
        token_types=lambda wildcards: stored_tokens(CFG, wildcards.model, wildcards.dataset),
    script:
        "../workflow_scripts/extract_activations.py"


LEFT_OUT = {
    f"{one.model} {one.dataset}": FILES.left_out(one.model, one.dataset) for one in planned_series(CFG)
}


rule list_left_out:
    """List the tokens that were left out of all stored activations."""
    input:
        parts=[part for parts in LEFT_OUT.values() for part in parts],
    output:
        shown("activations/left_out.csv", "Dictionaries", "tokens left out"),
    params:
        parts=LEFT_OUT,
    script:
        "../workflow_scripts/list_left_out.py"
