# Scores against the built-in world's scene graphs: which features really tell what is where.


rule score_ground_truth:
    input:
        samples=[samples_file(name) for name in TRUTH_DATA],
        shards=truth_shards(),
        dictionaries=dictionary_files(CFG.diff.adapted, "{seed}"),
    output:
        features=f"{GROUND_TRUTH}/features.parquet",
        scores=f"{GROUND_TRUTH}/label_scores.parquet",
    log:
        f"{RESULTS}/logs/score_ground_truth/seed_{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/score_ground_truth/seed_{{seed}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        **rule_resources("score_ground_truth", mem_mb=2000, runtime=30),
    params:
        names=TRUTH_DATA,
        layers=LAYERS,
        layout=truth_layout(),
        seed=CFG.seed,
        code=code_digest("score_ground_truth"),
    script:
        "../workflow_scripts/score_ground_truth.py"


rule evaluate_rules:
    input:
        truth=rules.score_ground_truth.output.features,
        adapted=f"{MAIN_FEATURES}/adapted.parquet",
        contrast=f"{MAIN_FEATURES}/{{concept}}/contrast.parquet",
        lexical=f"{MAIN_FEATURES}/{{concept}}/lexical.parquet",
    output:
        report(
            f"{GROUND_TRUTH}/{{concept}}/rule_quality.csv",
            caption="captions/rule_quality.rst",
            category="How sure are we",
            labels={"table": "Selection rules against the scenes", "concept": "{concept}", "seed": "{seed}"},
        ),
    log:
        f"{RESULTS}/logs/evaluate_rules/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate_rules/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("evaluate_rules", mem_mb=1000, runtime=10),
    params:
        unit=concept_unit,
        eps=CFG.diff.eps,
        code=code_digest("evaluate_rules"),
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
    log:
        logs("plot_ground_truth/{concept}"),
    benchmark:
        benchmarks("plot_ground_truth/{concept}")
    conda:
        "../envs/vlmdiff.yaml"
    resources:
        **rule_resources("plot_ground_truth", mem_mb=1000, runtime=5),
    params:
        code=code_digest("plot_ground_truth"),
    script:
        "../workflow_scripts/plot_ground_truth.py"
