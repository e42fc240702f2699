"""Causal checks: what the model answers; features ranked on validation data, reported on test data."""


rule evaluate_model:
    input:
        model=lambda wildcards: f"{model_path(wildcards.model)}/config.json",
        weights=lambda wildcards: weight_files(wildcards.model),
        samples=[samples_file(dataset) for dataset in asked_sets()],
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
        target=samples_file(CFG.ablation.rank_on.target),
        control=samples_file(CFG.ablation.rank_on.control),
        dictionaries=dictionary_files(CFG.diff.adapted, "{seed}"),
        final_features=f"{RESULTS}/features/main/seed_{{seed}}/{{concept}}/final_features.csv",
    output:
        report(
            f"{RESULTS}/interventions/seed_{{seed}}/{{concept}}/ranking.csv",
            caption="captions/ranking.rst",
            category="Interventions",
            labels={"table": "Ranking", "concept": "{concept}", "seed": "{seed}"},
        ),
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
        questions=question_sets(CFG.ablation.rank_on),
        stage={
            "layers": LAYERS,
            "scope": CFG.ablation.scopes[0],
            "candidates": CFG.ablation.candidates,
        },
        code=code_digest("rank_features"),
    script:
        "../workflow_scripts/rank_features.py"


rule evaluate_ablation:
    input:
        model=f"{model_path(CFG.diff.model)}/config.json",
        weights=weight_files(CFG.diff.model),
        target=samples_file(CFG.ablation.report_on.target),
        control=samples_file(CFG.ablation.report_on.control),
        dictionaries=dictionary_files(CFG.diff.adapted, "{seed}"),
        ranking=rules.rank_features.output[0],
        final_features=f"{RESULTS}/features/main/seed_{{seed}}/{{concept}}/final_features.csv",
        contrast=f"{RESULTS}/features/main/seed_{{seed}}/{{concept}}/contrast.parquet",
        adapted=f"{RESULTS}/features/main/seed_{{seed}}/adapted.parquet",
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
        questions=question_sets(CFG.ablation.report_on),
        seed=CFG.seed,
        stage={
            "layers": LAYERS,
            **CFG.ablation.params(
                "concepts",
                "scopes",
                "rank_on",
                "report_on",
                "candidates",
                "selection_sizes",
                "selection_draws",
            ),
        },
        code=code_digest("evaluate_ablation"),
    script:
        "../workflow_scripts/evaluate_ablation.py"
