"""Scores against the built-in world's scene graphs: which features really tell what is where."""

from vlmdiff.config.causal import ground_truth_datasets

TRUTH_DATA = ground_truth_datasets(CFG)
TRUTH_SHARDS = {name: FILES.shards_by_layer(CFG.diff.model, name) for name in TRUTH_DATA}


rule score_ground_truth:
    """Score each feature against what the scene graphs say of every image."""
    input:
        samples=[FILES.samples(name) for name in TRUTH_DATA],
        shards=once(files for layers in TRUTH_SHARDS.values() for files in layers.values()),
        dictionaries=FILES.dictionaries(CFG.diff.adapted, "{seed}"),
    output:
        features=results("ground_truth/seed_{seed}/features.parquet"),
        scores=results("ground_truth/seed_{seed}/label_scores.parquet"),
    threads: CFG.threads
    params:
        names=TRUTH_DATA,
        layers=LAYERS,
        layout=TRUTH_SHARDS,
        seed=CFG.seed,
    script:
        "../workflow_scripts/score_ground_truth.py"


rule evaluate_rules:
    """Measure how many features of each selection rule really tell the concept."""
    input:
        truth=rules.score_ground_truth.output.features,
        adapted=results("features/main/seed_{seed}/adapted.parquet"),
        contrast=results("features/main/seed_{seed}/{concept}/contrast.parquet"),
        lexical=results("features/main/seed_{seed}/{concept}/lexical.parquet"),
    output:
        shown("ground_truth/seed_{seed}/{concept}/rule_quality.csv", "How sure are we", "Rule quality"),
    params:
        unit=lambda wildcards: CFG.concepts[wildcards.concept].unit,
        eps=CFG.diff.eps,
    script:
        "../workflow_scripts/evaluate_rules.py"
