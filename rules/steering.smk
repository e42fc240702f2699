# Steering: directions that are added to the residual stream.


rule evaluate_steering:
    input:
        model=steered_files("model"),
        weights=steered_files("weights"),
        rank_target=steering_samples("rank_on", "target"),
        rank_control=steering_samples("rank_on", "control"),
        target=steering_samples("report_on", "target"),
        control=steering_samples("report_on", "control"),
        held_out=lambda wildcards: held_out_tables(CFG.steering.report_on),
        dictionaries=dictionary_files(CFG.diff.adapted, "{seed}"),
        ranking=f"{RESULTS}/interventions/seed_{{seed}}/{{concept}}/ranking.csv",
    output:
        report(
            f"{RESULTS}/interventions/seed_{{seed}}/{{concept}}/steering.csv",
            caption="captions/steering_table.rst",
            category="Interventions",
            labels={"table": "Steering", "concept": "{concept}", "seed": "{seed}"},
        ),
    log:
        f"{RESULTS}/logs/evaluate_steering/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate_steering/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        **rule_resources("evaluate_steering", mem_mb=3000, runtime=120),
    params:
        model=lambda wildcards: {"name": CFG.steering.model, "values": subject_params(CFG.steering.model)},
        validation=lambda wildcards: question_sets(CFG.steering.rank_on),
        test=lambda wildcards: question_sets(CFG.steering.report_on),
        seed=CFG.seed,
        stage=lambda wildcards: {
            "layers": LAYERS,
            **CFG.steering.params("concept", "model", "rank_on", "report_on"),
        },
        code=code_digest("evaluate_steering"),
    script:
        "../workflow_scripts/evaluate_steering.py"


rule plot_steering:
    """Draw the dose-response of steering."""
    input:
        rules.evaluate_steering.output[0],
    output:
        **figure("seed_{seed}/{concept}/steering", "Interventions", "Steering"),
    log:
        logs("plot_steering/seed_{seed}/{concept}"),
    benchmark:
        benchmarks("plot_steering/seed_{seed}/{concept}")
    conda:
        "../envs/vlmdiff.yaml"
    resources:
        **rule_resources("plot_steering", mem_mb=1000, runtime=5),
    params:
        target=lambda wildcards: CFG.steering.report_on.target,
        control=lambda wildcards: CFG.steering.report_on.control,
        code=code_digest("plot_steering"),
    script:
        "../workflow_scripts/plot_steering.py"
