"""Residual streams of a model shown a data set: one HDF5 shard for each block of samples and group of layers."""

from vlmdiff.config.storage import layer_groups, plan, planned_series, stored_tokens, training_only

STREAMED = CFG.extraction.store == "stream"
TEMPORARY = CFG.extraction.store != "keep"
GROUPS = layer_groups(CFG)
ACTIVATIONS = results("activations/{model}/{dataset}/{layers}")

# A dry run starts nothing, so that Snakefile's `onstart` is silent. Of a module that says so of single rules, too,
# it is told once.
whole = workflow.modifier.rule_whitelist is None
if whole and workflow.is_main_process and workflow.output_settings.dryrun:
    logger.info(plan(CFG))


def group_folder(layers):
    """Name the layers that share a shard file."""
    return f"layers_{layers[0]}_{layers[-1]}"


def shards(model, dataset, layer):
    """Return the activation shards that hold a layer of a model shown a data set, in the order of samples."""
    group = group_folder(next(layers for layers in GROUPS if int(layer) in layers))
    return [results(f"activations/{model}/{dataset}/{group}/shard_{block}.h5") for block in blocks(dataset)]


def once(lists):
    """Return the files of lists in their order, each once."""
    return list(dict.fromkeys(file for files in lists for file in files))


def named_group(wildcards):
    """Return the layers that a shard's path names."""
    return next(layers for layers in GROUPS if group_folder(layers) == wildcards.layers)


def finished_groups(wildcards):
    """Return the dictionaries that must be trained before more training data are stored; none to keep all.

    Training data of one group of layers are on disk at a time.
    """
    number = GROUPS.index(named_group(wildcards))
    if not TEMPORARY or number == 0 or not training_only(CFG, wildcards.model, wildcards.dataset):
        return []
    series = (wildcards.model, wildcards.dataset)
    return [
        ancient(dictionary_file(name, seed, layer))
        for name, seeds in CFG.default_dictionaries().items()
        for seed in range(seeds)
        for layer in GROUPS[number - 1]
        if (CFG.dictionaries[name].model, CFG.dictionaries[name].dataset) == series
    ]


rule extract_activations:
    """Store what a model's layers hold while it reads a block of a data set's samples."""
    input:
        samples=lambda wildcards: samples_file(wildcards.dataset),
        model=lambda wildcards: config_file(wildcards.model),
        weights=lambda wildcards: weight_files(wildcards.model),
        # Only to bound the disk that temporary shards take: these files are not read.
        after=finished_groups,
    output:
        # Deleted when nothing needs it any more, if the configuration says so.
        shard=(temp if TEMPORARY else str)(f"{ACTIVATIONS}/shard_{{block}}.h5"),
        left_out=f"{ACTIVATIONS}/left_out_{{block}}.csv",
    wildcard_constraints:
        layers=one_of(map(group_folder, GROUPS)),
    threads: CFG.threads
    resources:
        **rule_resources("extract_activations", mem_mb=2000, runtime=60),
    params:
        samples=lambda wildcards: CFG.dataset(wildcards.dataset).samples,
        fewer=lambda wildcards: fewer_samples(wildcards.dataset),
        subject=lambda wildcards: subject_params(wildcards.model),
        extraction=CFG.extraction.params("store", "layers_at_once"),
        layers=named_group,
        token_types=lambda wildcards: stored_tokens(CFG, wildcards.model, wildcards.dataset),
    script:
        "../workflow_scripts/extract_activations.py"


def left_out_parts():
    """Return what was left out of every shard that the default target stores, by model and data set."""
    return {
        f"{one.model} {one.dataset}": [
            results(f"activations/{one.model}/{one.dataset}/{group_folder(layers)}/left_out_{block}.csv")
            for layers in GROUPS
            for block in blocks(one.dataset)
        ]
        for one in planned_series(CFG)
    }


rule list_left_out:
    """List the tokens that were left out of all stored activations."""
    input:
        parts=[part for parts in left_out_parts().values() for part in parts],
    output:
        shown("activations/left_out.csv", "Dictionaries", table="tokens left out"),
    params:
        parts=left_out_parts(),
    script:
        "../workflow_scripts/list_left_out.py"
