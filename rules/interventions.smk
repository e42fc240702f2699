"""Causal checks: what the model answers; features ranked on validation data, reported on test data."""


rule evaluate_model:
    input:
        model=lambda wildcards: f"{model_path(wildcards.model)}/config.json",
        weights=lambda wildcards: weight_files(wildcards.model),
        samples=[samples_file(dataset) for dataset in asked_sets()],
        held_out=[f"{RESULTS}/held_out/{dataset}.csv" for dataset in asked_sets()],
    output:
        report(
            f"{RESULTS}/accuracy/{{model}}.csv",
            caption="captions/accuracy.rst",
            category="Models",
            labels={"table": "Accuracy", "model": "{model}"},
        ),
    log:
        f"{RESULTS}/logs/evaluate_model/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate_model/{{model}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        **rule_resources("evaluate_model", mem_mb=2000, runtime=30),
    params:
        model=lambda wildcards: {"name": wildcards.model, "values": subject_params(wildcards.model)},
        questions={
            "names": list(asked_sets()),
            "limits": list(asked_sets().values()),
            "batch_tokens": CFG.extraction.batch_tokens,
        },
        seed=CFG.seed,
        code=code_digest("evaluate_model"),
    script:
        "../workflow_scripts/evaluate_model.py"


rule rank_features:
    input:
        model=f"{model_path(CFG.diff.model)}/config.json",
        weights=weight_files(CFG.diff.model),
        target=lambda wildcards: samples_file(CFG.ablation.rank_on.target),
        control=lambda wildcards: samples_file(CFG.ablation.rank_on.control),
        dictionaries=dictionary_files(CFG.diff.adapted, "{seed}"),
        final_features=f"{RESULTS}/features/main/seed_{{seed}}/{{concept}}/final_features.csv",
        contrast=f"{RESULTS}/features/main/seed_{{seed}}/{{concept}}/contrast.parquet",
    output:
        ranking=report(
            f"{RESULTS}/interventions/seed_{{seed}}/{{concept}}/ranking.csv",
            caption="captions/ranking.rst",
            category="Interventions",
            labels={"table": "Ranking", "concept": "{concept}", "seed": "{seed}"},
        ),
        pools=f"{RESULTS}/interventions/seed_{{seed}}/{{concept}}/random_pools.csv",
    log:
        f"{RESULTS}/logs/rank_features/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/rank_features/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        **rule_resources("rank_features", mem_mb=2000, runtime=30),
    params:
        model=causal_model(),
        questions=lambda wildcards: question_sets(CFG.ablation.rank_on),
        seed=CFG.seed,
        stage=lambda wildcards: {
            "layers": LAYERS,
            "scope": CFG.ablation.headline.scope,
            "candidates": CFG.ablation.candidates,
            "verified": CFG.ablation.verified,
            "random_draws": CFG.ablation.random_draws,
            "massive_ratio": CFG.extraction.massive_ratio,
        },
        code=code_digest("rank_features"),
    script:
        "../workflow_scripts/rank_features.py"


rule evaluate_ablation:
    input:
        model=f"{model_path(CFG.diff.model)}/config.json",
        weights=weight_files(CFG.diff.model),
        target=lambda wildcards: samples_file(CFG.ablation.report_on.target),
        control=lambda wildcards: samples_file(CFG.ablation.report_on.control),
        held_out=lambda wildcards: held_out_tables(CFG.ablation.report_on),
        dictionaries=dictionary_files(CFG.diff.adapted, "{seed}"),
        ranking=rules.rank_features.output.ranking,
        pools=rules.rank_features.output.pools,
    output:
        report(
            f"{RESULTS}/interventions/seed_{{seed}}/{{concept}}/ablation_{{scope}}.csv",
            caption="captions/ablation.rst",
            category="Interventions",
            labels={"table": "Ablation, {scope}", "concept": "{concept}", "seed": "{seed}"},
        ),
    log:
        f"{RESULTS}/logs/evaluate_ablation/seed_{{seed}}/{{concept}}/{{scope}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate_ablation/seed_{{seed}}/{{concept}}/{{scope}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        **rule_resources("evaluate_ablation", mem_mb=3000, runtime=120),
    params:
        model=causal_model(),
        questions=lambda wildcards: question_sets(CFG.ablation.report_on),
        seed=CFG.seed,
        stage=lambda wildcards: {
            "layers": LAYERS,
            "single_features": CFG.ablation.single_features,
            "set_sizes": CFG.ablation.set_sizes,
            "bootstrap": CFG.ablation.bootstrap,
            "massive_ratio": CFG.extraction.massive_ratio,
        },
        code=code_digest("evaluate_ablation"),
    script:
        "../workflow_scripts/evaluate_ablation.py"
