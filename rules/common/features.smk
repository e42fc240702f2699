"""Which tables the feature stages read."""

STATISTICS = f"{RESULTS}/features/statistics"
FEATURES = f"{RESULTS}/features/{{comparison}}/seed_{{seed}}"
MAIN_FEATURES = f"{RESULTS}/features/{MAIN}/seed_{{seed}}"


def feature_tables(name, comparison, seed, datasets):
    """Return one statistics table of a comparison's adapted dictionary for every data set and layer."""
    diff = CFG.comparison(comparison)
    folder = f"{STATISTICS}/{diff.adapted}/seed_{seed}/{diff.model}"
    return [f"{folder}/{dataset}/layer_{layer}/{name}.parquet" for dataset in datasets for layer in LAYERS]


def diff_tables(name, kind):
    """Return an input function: tables of a comparison's `visual_datasets` or `text_datasets`."""

    def tables(wildcards):
        datasets = getattr(CFG.comparison(wildcards.comparison), kind)
        return feature_tables(name, wildcards.comparison, wildcards.seed, datasets)

    return tables


def concept_tables(name, side):
    """Return an input function: tables of the data set of a concept's `target` or `baseline`."""

    def tables(wildcards):
        dataset = getattr(CFG.concepts[wildcards.concept], side).dataset
        return feature_tables(name, wildcards.comparison, wildcards.seed, [dataset])

    return tables


def compared(key, name="sae_weights.safetensors"):
    """Return an input function: a file for every layer of a comparison's `base`, `adapted` or `null`."""

    def files(wildcards):
        dictionary = getattr(CFG.comparison(wildcards.comparison), key)
        return [] if dictionary is None else dictionary_files(dictionary, wildcards.seed, name)

    return files


def second_null(wildcards):
    """Return the second null at every layer, for the first seed of the comparison; nothing without one."""
    return compared("null_check")(wildcards) if int(wildcards.seed) == 0 else []


def untuned_null(wildcards):
    """Return the dictionary of the model that was never tuned, at every layer, for the main comparison's seeds with one."""
    name = CFG.diff.untuned if wildcards.comparison == MAIN else None
    if name is None or int(wildcards.seed) >= CFG.comparisons[name].seeds:
        return []
    return dictionary_files(CFG.comparison(name).adapted, wildcards.seed)


def compared_model(wildcards):
    """Return the model of a comparison."""
    return CFG.comparison(wildcards.comparison).model


def sample_set(side):
    """Return a params function: a concept's `target` or `baseline` as plain values."""
    return lambda wildcards: getattr(CFG.concepts[wildcards.concept], side).params()


def concept_datasets(concept):
    """Return the data sets of a concept's target and baseline."""
    return [getattr(CFG.concepts[concept], side).dataset for side in ("target", "baseline")]


def concept_unit(wildcards):
    """Return the unit by which a concept's features are selected."""
    return CFG.concepts[wildcards.concept].unit


def lexical_criteria(wildcards):
    """Return when a candidate counts as invariant; any does where a concept does without the lexical filter."""
    criteria = CFG.lexical.params("prompts", "samples", "describe_tokens")
    return criteria if CFG.concepts[wildcards.concept].lexical else criteria | {"variant": "none"}


def concept_words(wildcards):
    """Return the words that name a concept, where the model may speak and has to be stopped at them."""
    return CFG.concepts[wildcards.concept].words if CFG.lexical.describe_tokens else []
