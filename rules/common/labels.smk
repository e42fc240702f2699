"""What labels of features are made from."""

# How the endpoint is reached and what it may cost: no answer depends on it.
ACCESS = {"api_key_env", "timeout_s", "retries", "backoff_s", "price_input", "price_output"}
LABELS = f"{RESULTS}/labels/seed_{{seed}}/{{concept}}"


def label_datasets(concept):
    """Return the data sets of a concept's target and baseline, each once."""
    return list(dict.fromkeys(concept_datasets(concept)))


def label_layout(wildcards):
    """Return by layer the shards of each data set, as plain values."""
    names = label_datasets(wildcards.concept)
    return {layer: [shards(CFG.diff.model, name, layer) for name in names] for layer in LAYERS}


def label_shards(wildcards):
    """Return all shards that labels are made from, each once."""
    layout = label_layout(wildcards)
    return list(dict.fromkeys(path for sets in layout.values() for files in sets for path in files))


def label_tables():
    """Return the labels of all studied concepts and seeds."""
    return expand(f"{LABELS}/labels.csv", seed=SEEDS, concept=CFG.studied_concepts())


def description_tables():
    """Return the descriptions; none if the config names no endpoint."""
    if CFG.labelling is None:
        return []
    return expand(f"{LABELS}/descriptions.csv", seed=SEEDS, concept=CFG.studied_concepts())
