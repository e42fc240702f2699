"""What scoring against the built-in world's scene graphs reads."""

from vlmdiff.config.storage import ground_truth_datasets

TRUTH_DATA = ground_truth_datasets(CFG)
GROUND_TRUTH = f"{RESULTS}/ground_truth/seed_{{seed}}"


def truth_shards():
    """Return the shards of the held-out scenes, data set by data set and layer by layer, each once."""
    paths = (path for name in TRUTH_DATA for layer in LAYERS for path in shards(CFG.diff.model, name, layer))
    return list(dict.fromkeys(paths))


def truth_layout():
    """Return the shards of each data set and layer, as plain values."""
    return {name: {layer: shards(CFG.diff.model, name, layer) for layer in LAYERS} for name in TRUTH_DATA}


def truth_outputs():
    """Return the tables on the quality of selection rules; none without scene graphs."""
    if not TRUTH_DATA:
        return []
    return [
        f"{RESULTS}/ground_truth/seed_{seed}/{concept}/rule_quality.csv"
        for concept, one in CFG.concepts.items()
        if one.compared or concept in CFG.studied_concepts()
        for seed in concept_seeds(concept)
    ]
