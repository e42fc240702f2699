"""Steering: directions that are added to the residual stream."""


rule evaluate_steering:
    """Add a concept's directions to the residual stream and measure how the answers change."""
    input:
        **checkpoint_of(lambda wildcards: CFG.steering.model),
        **questions_of(CFG.steering, "rank_on", ("rank_target", "rank_control")),
        **questions_of(CFG.steering),
        dictionaries=dictionary_files(CFG.diff.adapted, "{seed}"),
        ranking=rules.rank_features.output.ranking,
    output:
        shown(
            "interventions/seed_{seed}/{concept}/steering.csv",
            "Interventions",
            "steering_table",
            table="Steering",
        ),
    threads: CFG.threads
    resources:
        **rule_resources("evaluate_steering", mem_mb=3000, runtime=120),
    params:
        model=lambda wildcards: named_subject(CFG.steering.model),
        validation=lambda wildcards: question_sets(CFG.steering.rank_on),
        test=lambda wildcards: question_sets(CFG.steering.report_on),
        seed=CFG.seed,
        stage=lambda wildcards: {
            "layers": LAYERS,
            **CFG.steering.params("concept", "model", "rank_on", "report_on"),
        },
    script:
        "../workflow_scripts/evaluate_steering.py"


rule plot_steering:
    """Draw the dose-response of steering."""
    input:
        rules.evaluate_steering.output[0],
    output:
        **figure("seed_{seed}/{concept}/steering", "Interventions", "Steering"),
    params:
        target=lambda wildcards: CFG.steering.report_on.target,
        control=lambda wildcards: CFG.steering.report_on.control,
    script:
        "../workflow_scripts/plot_steering.py"


def steering_tables():
    """Return the table of steering, which is done for the first seed; none if the config has no steering."""
    return [results(f"interventions/seed_0/{CFG.steering.concept}/steering.csv")] if CFG.steering else []
