"""Attention heads: attribution, exact patching, ablation, and where the top heads look."""


rule attribute_heads:
    input:
        model=f"{model_path(CFG.diff.model)}/config.json",
        weights=weight_files(CFG.diff.model),
        samples=lambda wildcards: samples_file(CFG.heads.dataset),
        dictionaries=dictionary_files(CFG.diff.adapted, "{seed}"),
        ranking=rules.rank_features.output[0],
    output:
        f"{RESULTS}/heads/seed_{{seed}}/{{concept}}/attribution.csv",
    log:
        f"{RESULTS}/logs/attribute_heads/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/attribute_heads/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        **rule_resources("attribute_heads", mem_mb=3000, runtime=30),
    params:
        model=causal_model(),
        traced=traced_samples,
        stage=lambda wildcards: {"layers": LAYERS, "features": CFG.heads.features},
        code=code_digest("attribute_heads"),
    script:
        "../workflow_scripts/attribute_heads.py"


rule aggregate_heads:
    input:
        rules.attribute_heads.output[0],
    output:
        report(
            f"{RESULTS}/heads/seed_{{seed}}/{{concept}}/scores.csv",
            caption="captions/head_scores.rst",
            category="Heads",
            labels={"table": "Head scores", "concept": "{concept}", "seed": "{seed}"},
        ),
    log:
        f"{RESULTS}/logs/aggregate_heads/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/aggregate_heads/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("aggregate_heads", mem_mb=1000, runtime=5),
    params:
        code=code_digest("aggregate_heads"),
    script:
        "../workflow_scripts/aggregate_heads.py"


rule patch_heads:
    input:
        model=f"{model_path(CFG.diff.model)}/config.json",
        weights=weight_files(CFG.diff.model),
        samples=lambda wildcards: samples_file(CFG.heads.dataset),
        dictionaries=dictionary_files(CFG.diff.adapted, "{seed}"),
        ranking=rules.rank_features.output[0],
        attribution=rules.attribute_heads.output[0],
    output:
        patching=f"{RESULTS}/heads/seed_{{seed}}/{{concept}}/patching.csv",
        agreement=report(
            f"{RESULTS}/heads/seed_{{seed}}/{{concept}}/agreement.csv",
            caption="captions/agreement.rst",
            category="Heads",
            labels={"table": "Attribution and exact patching", "concept": "{concept}", "seed": "{seed}"},
        ),
    log:
        f"{RESULTS}/logs/patch_heads/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/patch_heads/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        **rule_resources("patch_heads", mem_mb=3000, runtime=60),
    params:
        model=causal_model(),
        traced=traced_samples,
        seed=CFG.seed,
        stage=lambda wildcards: {
            "layers": LAYERS,
            "features": CFG.heads.features,
            "exact_heads": CFG.heads.exact_heads,
            "bootstrap": CFG.heads.bootstrap,
        },
        code=code_digest("patch_heads"),
    script:
        "../workflow_scripts/patch_heads.py"


rule evaluate_head_ablation:
    input:
        model=f"{model_path(CFG.diff.model)}/config.json",
        weights=weight_files(CFG.diff.model),
        target=lambda wildcards: samples_file(CFG.heads.report_on.target),
        control=lambda wildcards: samples_file(CFG.heads.report_on.control),
        held_out=lambda wildcards: held_out_tables(CFG.heads.report_on),
        mean=lambda wildcards: samples_file(CFG.heads.head_means.dataset),
        scores=rules.aggregate_heads.output[0],
    output:
        report(
            f"{RESULTS}/heads/seed_{{seed}}/{{concept}}/head_ablation.csv",
            caption="captions/head_ablation_table.rst",
            category="Heads",
            labels={"table": "Head ablation", "concept": "{concept}", "seed": "{seed}"},
        ),
    log:
        f"{RESULTS}/logs/evaluate_head_ablation/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate_head_ablation/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        **rule_resources("evaluate_head_ablation", mem_mb=3000, runtime=60),
    params:
        model=causal_model(),
        questions=lambda wildcards: question_sets(CFG.heads.report_on),
        seed=CFG.seed,
        stage=lambda wildcards: {
            "mean_samples": CFG.heads.head_means.samples,
            "ablate_sizes": CFG.heads.ablate_sizes,
            "random_draws": CFG.heads.random_draws,
            "bootstrap": CFG.heads.bootstrap,
        },
        code=code_digest("evaluate_head_ablation"),
    script:
        "../workflow_scripts/evaluate_head_ablation.py"


rule map_attention:
    input:
        model=f"{model_path(CFG.diff.model)}/config.json",
        weights=weight_files(CFG.diff.model),
        samples=lambda wildcards: samples_file(CFG.heads.dataset),
        dictionaries=dictionary_files(CFG.diff.adapted, "{seed}"),
        ranking=rules.rank_features.output[0],
        attribution=rules.attribute_heads.output[0],
    output:
        f"{RESULTS}/heads/seed_{{seed}}/{{concept}}/attention.csv",
    log:
        f"{RESULTS}/logs/map_attention/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/map_attention/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        **rule_resources("map_attention", mem_mb=2000, runtime=15),
    params:
        model=causal_model(),
        stage=lambda wildcards: {
            "layers": LAYERS,
            "features": CFG.heads.features,
            "samples": CFG.heads.mean_samples,
            "images": 4,
            "batch_tokens": CFG.extraction.batch_tokens,
        },
        code=code_digest("map_attention"),
    script:
        "../workflow_scripts/map_attention.py"
