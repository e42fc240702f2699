"""Scores against the built-in world's scene graphs: which features really tell what is where."""

from vlmdiff.config.cases import concept_seeds
from vlmdiff.config.storage import ground_truth_datasets

TRUTH_DATA = ground_truth_datasets(CFG)
TRUTH_SHARDS = {name: {layer: shards(CFG.diff.model, name, layer) for layer in LAYERS} for name in TRUTH_DATA}


rule score_ground_truth:
    """Score each feature against what the scene graphs say of every image."""
    input:
        samples=[samples_file(name) for name in TRUTH_DATA],
        shards=once(files for layers in TRUTH_SHARDS.values() for files in layers.values()),
        dictionaries=dictionary_files(CFG.diff.adapted, "{seed}"),
    output:
        features=results("ground_truth/seed_{seed}/features.parquet"),
        scores=results("ground_truth/seed_{seed}/label_scores.parquet"),
    threads: CFG.threads
    resources:
        **rule_resources("score_ground_truth", mem_mb=2000, runtime=30),
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
        shown(
            "ground_truth/seed_{seed}/{concept}/rule_quality.csv",
            "How sure are we",
            table="Selection rules against the scenes",
        ),
    resources:
        **rule_resources("evaluate_rules", mem_mb=1000, runtime=10),
    params:
        unit=concept_unit,
        eps=CFG.diff.eps,
    script:
        "../workflow_scripts/evaluate_rules.py"


rule plot_ground_truth:
    """Draw what final features really tell, and how good each selection rule is."""
    input:
        truth=expand(results("ground_truth/seed_{seed}/features.parquet"), seed=SEEDS),
        quality=[results(f"ground_truth/seed_{seed}/{{concept}}/rule_quality.csv") for seed in SEEDS],
        final=[results(f"features/main/seed_{seed}/{{concept}}/final_features.csv") for seed in SEEDS],
    output:
        **figure("{concept}/ground_truth", "How sure are we", "Ground truth"),
    script:
        "../workflow_scripts/plot_ground_truth.py"


def truth_outputs():
    """Return the tables on the quality of selection rules; none without scene graphs."""
    return [
        results(f"ground_truth/seed_{seed}/{concept}/rule_quality.csv")
        for concept in (compared_concepts(CFG) if TRUTH_DATA else [])
        for seed in concept_seeds(CFG, concept)
    ]
