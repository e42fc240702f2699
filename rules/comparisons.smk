# Controls, stages and sensitivity: other comparisons beside the main one, and whether findings recur.


rule match_seeds:
    input:
        dictionaries=[file for seed in SEEDS for file in dictionary_files(CFG.diff.adapted, seed)],
        adapted=expand(f"{RESULTS}/features/main/seed_{{seed}}/adapted.parquet", seed=SEEDS),
        final=[f"{RESULTS}/features/main/seed_{seed}/{{concept}}/final_features.csv" for seed in SEEDS],
    output:
        report(
            f"{RESULTS}/features/main/recurrence/{{concept}}.csv",
            caption="captions/recurrence.rst",
            category="How sure are we",
            labels={"table": "Recurrence over seeds", "concept": "{concept}"},
        ),
    log:
        f"{RESULTS}/logs/match_seeds/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/match_seeds/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("match_seeds", mem_mb=1000, runtime=60),
    params:
        layers=LAYERS,
        code=code_digest("match_seeds"),
    script:
        "../workflow_scripts/match_seeds.py"


rule evaluate_selection:
    input:
        model=lambda wildcards: f"{model_path(compared_model(wildcards))}/config.json",
        weights=lambda wildcards: weight_files(compared_model(wildcards)),
        target=lambda wildcards: samples_file(CFG.ablation.report_on.target),
        control=lambda wildcards: samples_file(CFG.ablation.report_on.control),
        held_out=lambda wildcards: held_out_tables(CFG.ablation.report_on),
        dictionaries=compared("adapted"),
        adapted=f"{FEATURES}/adapted.parquet",
        contrast=f"{FEATURES}/{{concept}}/contrast.parquet",
        lexical=f"{FEATURES}/{{concept}}/lexical.parquet",
    output:
        report(
            f"{RESULTS}/interventions/comparisons/{{comparison}}/seed_{{seed}}/{{concept}}/selection.csv",
            caption="captions/selection.rst",
            category="How sure are we",
            labels={
                "table": "Selection rules",
                "comparison": "{comparison}",
                "concept": "{concept}",
                "seed": "{seed}",
            },
        ),
    log:
        f"{RESULTS}/logs/evaluate_selection/{{comparison}}/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate_selection/{{comparison}}/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        **rule_resources("evaluate_selection", mem_mb=3000, runtime=60),
    params:
        model=compared_causal_model,
        questions=lambda wildcards: question_sets(CFG.ablation.report_on),
        seed=CFG.seed,
        stage=lambda wildcards: {
            "layers": LAYERS,
            "unit": CFG.concepts[wildcards.concept].unit,
            "eps": CFG.comparison(wildcards.comparison).eps,
            "rules": selection_rules(wildcards.comparison),
            "sizes": CFG.ablation.selection_sizes,
            "draws": CFG.ablation.selection_draws,
            "random_draws": CFG.ablation.random_draws,
            "bootstrap": CFG.ablation.bootstrap,
            "massive_ratio": CFG.extraction.massive_ratio,
        },
        code=code_digest("evaluate_selection"),
    script:
        "../workflow_scripts/evaluate_selection.py"


rule summarise_comparisons:
    input:
        thresholds=comparison_tables("thresholds.csv"),
        funnel=comparison_tables("funnel.csv"),
        check=comparison_tables("contrast_check.csv"),
        final=comparison_tables("final_features.csv"),
        selection=comparison_selections,
        dictionaries=comparison_dictionaries,
    output:
        report(
            f"{RESULTS}/comparisons/{{target}}/{{concept}}.csv",
            caption="captions/comparisons.rst",
            category="How sure are we",
            labels={"table": "{target}", "concept": "{concept}"},
        ),
    log:
        f"{RESULTS}/logs/summarise_comparisons/{{target}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/summarise_comparisons/{{target}}/{{concept}}.tsv"
    wildcard_constraints:
        target=one_of(TARGETS),
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("summarise_comparisons", mem_mb=2000, runtime=30),
    params:
        entries=comparison_params,
        layers=LAYERS,
        data=reported_data(CFG.ablation),
        code=code_digest("summarise_comparisons"),
    script:
        "../workflow_scripts/summarise_comparisons.py"


rule compare_stages:
    input:
        base=corner_files("base"),
        data=corner_files("data"),
        model=corner_files("model"),
        data_then_model=corner_files("data_then_model"),
        model_then_data=corner_files("model_then_data"),
        adapted=f"{RESULTS}/features/main/seed_{{seed}}/adapted.parquet",
        final=f"{RESULTS}/features/main/seed_{{seed}}/{CFG.studied_concepts()[0]}/final_features.csv",
    output:
        f"{RESULTS}/stages/seed_{{seed}}/grid.parquet",
    log:
        f"{RESULTS}/logs/compare_stages/seed_{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/compare_stages/seed_{{seed}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("compare_stages", mem_mb=1000, runtime=30),
    params:
        layers=LAYERS,
        corners=["base", "data", "model", "data_then_model", "model_then_data"],
        code=code_digest("compare_stages"),
    script:
        "../workflow_scripts/compare_stages.py"


rule evaluate_transfer:
    input:
        models=[f"{model_path(name)}/config.json" for name in CFG.stages.models],
        weights=[file for name in CFG.stages.models for file in weight_files(name)],
        target=lambda wildcards: samples_file(CFG.ablation.report_on.target),
        control=lambda wildcards: samples_file(CFG.ablation.report_on.control),
        held_out=lambda wildcards: held_out_tables(CFG.ablation.report_on),
        dictionaries=dictionary_files(CFG.diff.adapted, "{seed}"),
        ranking=f"{RESULTS}/interventions/seed_{{seed}}/{{concept}}/ranking.csv",
        pools=f"{RESULTS}/interventions/seed_{{seed}}/{{concept}}/random_pools.csv",
    output:
        report(
            f"{RESULTS}/stages/seed_{{seed}}/{{concept}}/transfer.csv",
            caption="captions/transfer_table.rst",
            category="How sure are we",
            labels={"table": "Transfer over stages", "concept": "{concept}", "seed": "{seed}"},
        ),
    log:
        f"{RESULTS}/logs/evaluate_transfer/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate_transfer/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        **rule_resources("evaluate_transfer", mem_mb=3000, runtime=120),
    params:
        models=[{"name": name, "values": subject_params(name)} for name in CFG.stages.models],
        questions=lambda wildcards: question_sets(CFG.ablation.report_on),
        seed=CFG.seed,
        stage=lambda wildcards: {
            "layers": LAYERS,
            "features": CFG.stages.features,
            "bootstrap": CFG.ablation.bootstrap,
            "massive_ratio": CFG.extraction.massive_ratio,
        },
        code=code_digest("evaluate_transfer"),
    script:
        "../workflow_scripts/evaluate_transfer.py"
