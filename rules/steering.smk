"""Steering: directions that are added to the residual stream."""


rule evaluate_steering:
    """Add a concept's directions to the residual stream and measure how the answers change."""
    input:
        **checkpoint_of(lambda wildcards: CFG.steering.model),
        **questions_of(CFG.steering, "rank_on", ("rank_target", "rank_control")),
        **questions_of(CFG.steering),
        dictionaries=FILES.dictionaries(CFG.diff.adapted, "{seed}"),
        ranking=rules.rank_features.output.ranking,
    output:
        shown("interventions/seed_{seed}/{concept}/steering.csv", "Interventions", "Steering"),
    threads: CFG.threads
    params:
        model=lambda wildcards: named_subject(CFG.steering.model),
        validation=lambda wildcards: question_sets(CFG.steering.rank_on),
        test=lambda wildcards: question_sets(CFG.steering.report_on),
        seed=CFG.seed,
        stage=lambda wildcards: {
            "layers": LAYERS,
            **CFG.steering.params("concepts", "model", "rank_on", "report_on"),
        },
    script:
        "../workflow_scripts/evaluate_steering.py"
