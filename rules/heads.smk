"""Attention heads: attribution, exact patching, ablation, and where the top heads look."""

HEADS = "heads/seed_{seed}/{concept}"
# What features are traced on and from, and how samples are read, their path aside.
TRACED = {
    **checkpoint_of(CFG.diff.model),
    "samples": lambda wildcards: FILES.samples(CFG.heads.dataset),
    "dictionaries": FILES.dictionaries(CFG.diff.adapted, "{seed}"),
    "ranking": rules.rank_features.output.ranking,
}
TRACED_SAMPLES = CFG.heads and {
    "samples": CFG.heads.samples,
    "image_samples": CFG.heads.image_samples,
    "batch_tokens": CFG.extraction.batch_tokens,
}


rule attribute_heads:
    """Attribute the best-ranked features to attention heads, to first order."""
    input:
        **TRACED,
    output:
        results(f"{HEADS}/attribution.csv"),
    threads: CFG.threads
    params:
        model=named_subject(CFG.diff.model),
        traced=TRACED_SAMPLES,
        stage=lambda wildcards: {"layers": LAYERS, **facts(CFG.heads, "features")},
    script:
        "../workflow_scripts/attribute_heads.py"


rule aggregate_heads:
    """Sum the attributions of each head over features."""
    input:
        rules.attribute_heads.output[0],
    output:
        shown(f"{HEADS}/scores.csv", "Heads", "Head scores"),
    script:
        "../workflow_scripts/aggregate_heads.py"


rule patch_heads:
    """Patch heads one by one and measure how well the attribution agrees."""
    input:
        **TRACED,
        attribution=rules.attribute_heads.output[0],
    output:
        patching=results(f"{HEADS}/patching.csv"),
        agreement=shown(f"{HEADS}/agreement.csv", "Heads", "Attribution and exact patching"),
    threads: CFG.threads
    params:
        model=named_subject(CFG.diff.model),
        traced=TRACED_SAMPLES,
        seed=CFG.seed,
        stage=lambda wildcards: {
            "layers": LAYERS,
            **facts(CFG.heads, "features", "exact_heads", "bootstrap"),
        },
    script:
        "../workflow_scripts/patch_heads.py"


rule evaluate_head_ablation:
    """Measure on test data what ablating the top heads does, compared with random ones."""
    input:
        **checkpoint_of(CFG.diff.model),
        **questions_of(CFG.heads),
        mean=lambda wildcards: FILES.samples(CFG.heads.head_means.dataset),
        scores=rules.aggregate_heads.output[0],
    output:
        shown(f"{HEADS}/head_ablation.csv", "Heads", "Head ablation"),
    threads: CFG.threads
    params:
        model=named_subject(CFG.diff.model),
        questions=lambda wildcards: question_sets(CFG.heads.report_on),
        seed=CFG.seed,
        stage=lambda wildcards: {
            "averaged_samples": CFG.heads.head_means.samples,
            "ablate_sizes": CFG.heads.ablate_sizes,
            "random_draws": CFG.heads.random_draws,
            "bootstrap": CFG.heads.bootstrap,
        },
    script:
        "../workflow_scripts/evaluate_head_ablation.py"


rule map_attention:
    """Map where the top heads look in some images."""
    input:
        **TRACED,
        attribution=rules.attribute_heads.output[0],
    output:
        results(f"{HEADS}/attention.csv"),
    threads: CFG.threads
    params:
        model=named_subject(CFG.diff.model),
        stage=lambda wildcards: {
            "layers": LAYERS,
            "features": CFG.heads.features,
            "samples": CFG.heads.image_samples,
            "images": 4,
            "batch_tokens": CFG.extraction.batch_tokens,
        },
    script:
        "../workflow_scripts/map_attention.py"
