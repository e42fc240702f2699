"""What dictionaries are trained and scored on."""

from vlmdiff.runtime.seeds import derive_seed

DICTIONARY = f"{RESULTS}/dictionaries/{{dictionary}}/seed_{{seed}}"


def initial_weights(wildcards):
    """Return the weights that a dictionary starts from at its layer; none for a random start."""
    initial = CFG.dictionaries[wildcards.dictionary].initial
    return [] if initial == "random" else dictionary_file(initial, wildcards.seed, wildcards.layer)


def all_initial_weights(wildcards):
    """Return the weights that a dictionary starts from at every layer; none for a random start."""
    initial = CFG.dictionaries[wildcards.dictionary].initial
    return [] if initial == "random" else dictionary_files(initial, wildcards.seed)


def published_dictionaries():
    """Return the names of dictionaries that are imported."""
    return [name for name in CFG.dictionaries if is_published(name)]


def published_files(wildcards):
    """Return for each layer the path of a published dictionary's folder or file in its source."""
    return {layer: CFG.dictionaries[wildcards.dictionary].path(layer) for layer in LAYERS}


def snapshot_folders(wildcards):
    """Return the folders of snapshots from a dictionary's training; none for an imported one."""
    if is_published(wildcards.dictionary):
        return []
    return dictionary_files(wildcards.dictionary, wildcards.seed, "snapshots")


def training_shards(wildcards):
    """Return the activations that a dictionary is trained on."""
    stage = CFG.dictionaries[wildcards.dictionary]
    return shards(stage.model, stage.dataset)


def evaluation_sets(wildcards):
    """Return the held-out sets that list a dictionary, with their shards."""
    return [
        {"model": entry.model, "dataset": entry.dataset, "shards": shards(entry.model, entry.dataset)}
        for entry in CFG.evaluation
        if wildcards.dictionary in entry.dictionaries
    ]
