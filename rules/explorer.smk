"""The explorer: a page of all features of the main comparison, with samples of some of them."""

from vlmdiff.config.cases import concept_seeds, explored_comparisons
from vlmdiff.config.comparisons import CROSSCODER, ROTATION
from vlmdiff.runtime.digest import folder_digest

EXPLORED = results("features/main/seed_0")
SAMPLED = {
    name: results(f"examples/seed_0/{name}.parquet")
    for name in ("examples", "activations", "tokens", "bins", "neighbours")
}
# Concepts that the first seed has; those whose features are ablated, traced and labelled.
CONCEPTS = [name for name in CFG.concepts if 0 in concept_seeds(CFG, name)]
ABLATED = CFG.ablation.concepts if CFG.ablation else []
TOLD_BY = CFG.concepts[CFG.studied_concepts()[0]].target.dataset
# Base and null may be indexed otherwise than the dictionary of another method.
HAS_SAMPLES = CFG.explorer is not None and CFG.diff.method == ROTATION


def flat(files):
    """Return one path, or several, as a list."""
    return [files] if isinstance(files, str) else list(files)


def of_concepts(concepts, pattern):
    """Return a file of each concept for the first seed."""
    return [results(pattern.format(concept)) for concept in concepts]


rule collect_examples:
    """Collect samples on which features fire, fire half as strongly, and stay silent."""
    input:
        **checkpoint_of(CFG.diff.model),
        samples=FILES.samples(TOLD_BY),
        base=FILES.dictionaries(CFG.diff.base, 0) if HAS_SAMPLES else [],
        adapted=FILES.dictionaries(CFG.diff.adapted, 0),
        null=FILES.dictionaries(CFG.diff.null, 0) if HAS_SAMPLES else [],
        table=f"{EXPLORED}/adapted.parquet",
        final=of_concepts(CONCEPTS, "features/main/seed_0/{}/final_features.csv"),
        ranking=of_concepts(ABLATED, "interventions/seed_0/{}/ranking.csv"),
        pools=of_concepts(ABLATED, "interventions/seed_0/{}/random_pools.csv"),
    output:
        **SAMPLED,
    threads: CFG.threads
    params:
        model=named_subject(CFG.diff.model),
        stage=lambda wildcards: {
            "layers": LAYERS,
            **facts(CFG.explorer, "features", "samples", "limit"),
            **facts(CFG.extraction, "batch_tokens", "massive_ratio"),
        },
    script:
        "../workflow_scripts/collect_examples.py"


def told_of(name):
    """Return the paths of a concept's tables that the explorer reads, and what is said of it: words, unit, limits."""
    folder, done = f"{EXPLORED}/{name}", name in ABLATED
    decides = CFG.concepts[name].lexical and CFG.diff.method != CROSSCODER
    scopes = [CFG.ablation.headline.scope] if done else []
    return {
        "about": CFG.concepts[name].about,
        "unit": CFG.concepts[name].unit,
        "limits": CFG.concepts[name].limits | (CFG.lexical.limits if decides else {}),
        "contrast": f"{folder}/contrast.parquet",
        "lexical": f"{folder}/lexical.parquet",
        "final": f"{folder}/final_features.csv",
        "ranking": of_concepts([name] * done, "interventions/seed_0/{}/ranking.csv"),
        "ablation": [results(f"interventions/seed_0/{name}/ablation_{scope}.csv") for scope in scopes],
    }


TOLD = {name: told_of(name) for name in CONCEPTS}
STUDIED = CFG.studied_concepts()
TRACED_CONCEPTS = CFG.heads.concepts if CFG.heads else []
TOLD_OF_SOME = {
    "samples": {
        **{name: SAMPLED[name] for name in ("examples", "activations", "tokens", "bins")},
        "samples": FILES.samples(TOLD_BY),
    },
    "facts": {
        "labels": of_concepts(STUDIED, "labels/seed_0/{}/labels.csv"),
        "evidence": of_concepts(STUDIED, "labels/seed_0/{}/evidence.csv"),
        "recurrence": of_concepts(STUDIED if CFG.seeds > 1 else [], "features/main/recurrence/{}.csv"),
        "attribution": of_concepts(TRACED_CONCEPTS, "heads/seed_0/{}/attribution.csv"),
        "neighbours": SAMPLED["neighbours"],
        "fdr": CFG.labels.fdr,
    },
    "effects": {
        "ablation": [file for told in TOLD.values() for file in told["ablation"]],
        "steering": of_concepts(
            CFG.steering.concepts if CFG.steering else [], "interventions/seed_0/{}/steering.csv"
        ),
    },
    "looks": {
        "attention": of_concepts(TRACED_CONCEPTS, "heads/seed_0/{}/attention.csv"),
        "samples": [FILES.samples(CFG.heads.dataset)] if CFG.heads else [],
    },
}


def trained_on(name):
    """Return what a dictionary reads, as the explorer tells it."""
    reads = [getattr(CFG.dictionaries[name], key, None) for key in ("model", "dataset")]
    return f"({name}): " + (" on ".join(one for one in reads if one) or "published") + "."


COMPARED = {
    role: trained_on(getattr(CFG.diff, role))
    for role in ("base", "adapted", "null")
    if getattr(CFG.diff, role, None)
}
OTHERS = {
    name: {
        "about": CFG.comparisons[name].about,
        "adapted": results(f"features/{name}/seed_0/adapted.parquet"),
    }
    for name in (explored_comparisons(CFG) if CFG.explorer else [])
}


rule write_explorer:
    """Write a page on which every feature can be found and looked at."""
    input:
        adapted=f"{EXPLORED}/adapted.parquet",
        thresholds=f"{EXPLORED}/thresholds.csv",
        tables=[
            file
            for told in TOLD.values()
            for key, files in told.items()
            if key not in ("about", "unit", "limits")
            for file in flat(files)
        ],
        truth=[results("ground_truth/seed_0/features.parquet")] if TRUTH_DATA and ABLATED else [],
        others=[told["adapted"] for told in OTHERS.values()],
        some=once(
            flat(files)
            for part in TOLD_OF_SOME.values()
            for key, files in part.items()
            if HAS_SAMPLES and key != "fdr"
        ),
    output:
        directory(results("explorer")),
    params:
        page=folder_digest(SCRIPTS / "vlmdiff" / "explorer" / "page"),
        experiment=CFG.experiment,
        rule=CFG.diff.rule,
        concepts=TOLD,
        target=reported_data(CFG.ablation)[0] if CFG.ablation else None,
        others=OTHERS,
        details=TOLD_OF_SOME if HAS_SAMPLES else None,
        picture_pixels=CFG.explorer.picture_pixels if CFG.explorer else None,
        compared=COMPARED,
    script:
        "../workflow_scripts/write_explorer.py"
