"""Causal checks of features: rank them on validation data, report on test data."""


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
        held_out=held_out_tables(CFG.ablation.report_on),
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
