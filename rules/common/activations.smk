"""Which activations are stored, where, and for how long."""

from vlmdiff.config.storage import layer_groups, plan, planned_series, stored_tokens, training_only

STREAMED = CFG.extraction.store == "stream"
TEMPORARY = CFG.extraction.store != "keep"
GROUPS = layer_groups(CFG)

# A dry run starts nothing, so that Snakefile's `onstart` is silent. Of a module that says so of single rules, too,
# it is told once.
whole = workflow.modifier.rule_whitelist is None
if whole and workflow.is_main_process and workflow.output_settings.dryrun:
    logger.info(plan(CFG))


def group_folder(layers):
    """Name the layers that share a shard file."""
    return f"layers_{layers[0]}_{layers[-1]}"


def group_of(layer):
    """Return the layers that are stored together with one."""
    return next(layers for layers in GROUPS if int(layer) in layers)


def named_group(wildcards):
    """Return the layers that a shard's path names."""
    return next(layers for layers in GROUPS if group_folder(layers) == wildcards.layers)


def shards(model, dataset, layer):
    """Return the activation shards that hold a layer of a model shown a data set, in the order of samples."""
    folder = f"{RESULTS}/activations/{model}/{dataset}/{group_folder(group_of(layer))}"
    return [f"{folder}/shard_{block}.h5" for block in blocks(dataset)]


def left_out_parts():
    """Return what was left out of every shard that the default target stores, by model and data set."""
    return {
        f"{one.model} {one.dataset}": [
            f"{RESULTS}/activations/{one.model}/{one.dataset}/{group_folder(layers)}/left_out_{block}.csv"
            for layers in GROUPS
            for block in blocks(one.dataset)
        ]
        for one in planned_series(CFG)
    }


def kept_or_temporary(path):
    """Mark a shard as one that is deleted when nothing needs it any more, if the config says so."""
    return temp(path) if TEMPORARY else path


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
