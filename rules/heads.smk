"""Attention heads: attribution, exact patching, ablation, and where the top heads look."""


def traced(*keys):
    """Return a params function: the layers at which features are traced to heads, with these settings."""
    return lambda wildcards: {"layers": LAYERS, **{key: getattr(CFG.heads, key) for key in keys}}


def traced_samples(wildcards):
    """Return which samples are traced to heads, their path aside."""
    return {
        "samples": CFG.heads.samples,
        "image_samples": CFG.heads.image_samples,
        "batch_tokens": CFG.extraction.batch_tokens,
    }


# What features are traced on and from.
TRACED = {
    **checkpoint_of(CFG.diff.model),
    "samples": lambda wildcards: samples_file(CFG.heads.dataset),
    "dictionaries": dictionary_files(CFG.diff.adapted, "{seed}"),
    "ranking": rules.rank_features.output.ranking,
}


rule attribute_heads:
    """Attribute the best-ranked features to attention heads, to first order."""
    input:
        **TRACED,
    output:
        results("heads/seed_{seed}/{concept}/attribution.csv"),
    log:
        logs("attribute_heads/seed_{seed}/{concept}"),
    benchmark:
        benchmarks("attribute_heads/seed_{seed}/{concept}")
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        **rule_resources("attribute_heads", mem_mb=3000, runtime=30),
    params:
        model=named_subject(CFG.diff.model),
        traced=traced_samples,
        stage=traced("features"),
        code=code_digest("attribute_heads"),
    script:
        "../workflow_scripts/attribute_heads.py"


rule aggregate_heads:
    """Sum the attributions of each head over features."""
    input:
        rules.attribute_heads.output[0],
    output:
        shown("heads/seed_{seed}/{concept}/scores.csv", "Heads", "head_scores", table="Head scores"),
    log:
        logs("aggregate_heads/seed_{seed}/{concept}"),
    benchmark:
        benchmarks("aggregate_heads/seed_{seed}/{concept}")
    conda:
        "../envs/vlmdiff.yaml"
    resources:
        **rule_resources("aggregate_heads", mem_mb=1000, runtime=5),
    params:
        code=code_digest("aggregate_heads"),
    script:
        "../workflow_scripts/aggregate_heads.py"


rule patch_heads:
    """Patch heads one by one and measure how well the attribution agrees."""
    input:
        **TRACED,
        attribution=rules.attribute_heads.output[0],
    output:
        patching=results("heads/seed_{seed}/{concept}/patching.csv"),
        agreement=shown(
            "heads/seed_{seed}/{concept}/agreement.csv", "Heads", table="Attribution and exact patching"
        ),
    log:
        logs("patch_heads/seed_{seed}/{concept}"),
    benchmark:
        benchmarks("patch_heads/seed_{seed}/{concept}")
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        **rule_resources("patch_heads", mem_mb=3000, runtime=60),
    params:
        model=named_subject(CFG.diff.model),
        traced=traced_samples,
        seed=CFG.seed,
        stage=traced("features", "exact_heads", "bootstrap"),
        code=code_digest("patch_heads"),
    script:
        "../workflow_scripts/patch_heads.py"


rule evaluate_head_ablation:
    """Measure on test data what ablating the top heads does, compared with random ones."""
    input:
        **checkpoint_of(CFG.diff.model),
        **questions_of(CFG.heads),
        mean=lambda wildcards: samples_file(CFG.heads.head_means.dataset),
        scores=rules.aggregate_heads.output[0],
    output:
        shown(
            "heads/seed_{seed}/{concept}/head_ablation.csv",
            "Heads",
            "head_ablation_table",
            table="Head ablation",
        ),
    log:
        logs("evaluate_head_ablation/seed_{seed}/{concept}"),
    benchmark:
        benchmarks("evaluate_head_ablation/seed_{seed}/{concept}")
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        **rule_resources("evaluate_head_ablation", mem_mb=3000, runtime=60),
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
        code=code_digest("evaluate_head_ablation"),
    script:
        "../workflow_scripts/evaluate_head_ablation.py"


rule map_attention:
    """Map where the top heads look in some images."""
    input:
        **TRACED,
        attribution=rules.attribute_heads.output[0],
    output:
        results("heads/seed_{seed}/{concept}/attention.csv"),
    log:
        logs("map_attention/seed_{seed}/{concept}"),
    benchmark:
        benchmarks("map_attention/seed_{seed}/{concept}")
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        **rule_resources("map_attention", mem_mb=2000, runtime=15),
    params:
        model=named_subject(CFG.diff.model),
        stage=lambda wildcards: {
            "layers": LAYERS,
            "features": CFG.heads.features,
            "samples": CFG.heads.image_samples,
            "images": 4,
            "batch_tokens": CFG.extraction.batch_tokens,
        },
        code=code_digest("map_attention"),
    script:
        "../workflow_scripts/map_attention.py"


def heads_tables(name):
    """Return one table of the traced concept for every seed; none if no feature is traced."""
    return (
        [results(f"heads/seed_{seed}/{CFG.heads.concept}/{name}.csv") for seed in SEEDS] if CFG.heads else []
    )
