"""Which tables the feature stages read."""

STATISTICS = f"{RESULTS}/features/statistics"
FEATURES = f"{RESULTS}/features/seed_{{seed}}"


def feature_tables(name, seed, datasets):
    """Return one statistics table of the adapted dictionary for every data set and layer."""
    folder = f"{STATISTICS}/{CFG.diff.adapted}/seed_{seed}/{CFG.diff.model}"
    return [f"{folder}/{dataset}/layer_{layer}/{name}.parquet" for dataset in datasets for layer in LAYERS]


def concept_tables(name, side):
    """Return an input function: tables of the data set of a concept's `target` or `baseline`."""

    def tables(wildcards):
        dataset = getattr(CFG.concepts[wildcards.concept], side).dataset
        return feature_tables(name, wildcards.seed, [dataset])

    return tables


def sample_set(side):
    """Return a params function: a concept's `target` or `baseline` as plain values."""
    return lambda wildcards: getattr(CFG.concepts[wildcards.concept], side).params()


def concept_unit(wildcards):
    """Return the unit by which a concept's features are selected."""
    return CFG.concepts[wildcards.concept].unit


def concept_words(wildcards):
    """Return the words that name a concept."""
    return CFG.concepts[wildcards.concept].words
