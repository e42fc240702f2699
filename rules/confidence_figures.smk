"""Figures that say how sure the findings are."""

from vlmdiff.config.cases import reported_rules


rule plot_comparisons:
    """Draw all comparisons of a target side by side."""
    input:
        comparisons=rules.summarise_comparisons.output[0],
    output:
        **figure("{target}/{concept}/comparisons", "How sure are we", "{target}", "comparisons_figure"),
    log:
        logs("plot_comparisons/{target}/{concept}"),
    benchmark:
        benchmarks("plot_comparisons/{target}/{concept}")
    wildcard_constraints:
        target=one_of(TARGETS),
    conda:
        "../envs/vlmdiff.yaml"
    resources:
        **rule_resources("plot_comparisons", mem_mb=1000, runtime=5),
    params:
        ablated=CFG.ablation is not None,
        code=code_digest("plot_comparisons"),
    script:
        "../workflow_scripts/plot_comparisons.py"


rule plot_selection_rules:
    """Draw what each selection rule's features do."""
    input:
        selection=default_selections,
    output:
        **figure("{concept}/selection_rules", "How sure are we", "Selection rules"),
    log:
        logs("plot_selection_rules/{concept}"),
    benchmark:
        benchmarks("plot_selection_rules/{concept}")
    conda:
        "../envs/vlmdiff.yaml"
    resources:
        **rule_resources("plot_selection_rules", mem_mb=1000, runtime=5),
    params:
        target=lambda wildcards: CFG.ablation.report_on.target,
        control=lambda wildcards: CFG.ablation.report_on.control,
        sizes=lambda wildcards: CFG.ablation.selection_sizes,
        rules=reported_rules(CFG),
        code=code_digest("plot_selection_rules"),
    script:
        "../workflow_scripts/plot_selection_rules.py"


rule plot_recurrence:
    """Draw how findings recur over seeds."""
    input:
        recurrence=rules.match_seeds.output[0],
    output:
        **figure("{concept}/recurrence", "How sure are we", "Recurrence over seeds", "recurrence_figure"),
    log:
        logs("plot_recurrence/{concept}"),
    benchmark:
        benchmarks("plot_recurrence/{concept}")
    conda:
        "../envs/vlmdiff.yaml"
    resources:
        **rule_resources("plot_recurrence", mem_mb=1000, runtime=5),
    params:
        code=code_digest("plot_recurrence"),
    script:
        "../workflow_scripts/plot_recurrence.py"


rule plot_stage_grid:
    """Draw rotations along the edges of the stage grid."""
    input:
        grid=results("stages/seed_0/grid.parquet"),
    output:
        **figure("stages/stage_grid", "How sure are we", "Stage grid"),
    log:
        logs("plot_stage_grid"),
    benchmark:
        benchmarks("plot_stage_grid")
    conda:
        "../envs/vlmdiff.yaml"
    resources:
        **rule_resources("plot_stage_grid", mem_mb=1000, runtime=5),
    params:
        code=code_digest("plot_stage_grid"),
    script:
        "../workflow_scripts/plot_stage_grid.py"


rule plot_transfer:
    """Draw what the same directions do at other stages of the model."""
    input:
        transfer=results("stages/seed_0/{concept}/transfer.csv"),
    output:
        **figure("stages/{concept}/transfer", "How sure are we", "Transfer over stages"),
    log:
        logs("plot_transfer/{concept}"),
    benchmark:
        benchmarks("plot_transfer/{concept}")
    conda:
        "../envs/vlmdiff.yaml"
    resources:
        **rule_resources("plot_transfer", mem_mb=1000, runtime=5),
    params:
        target=lambda wildcards: CFG.ablation.report_on.target,
        control=lambda wildcards: CFG.ablation.report_on.control,
        code=code_digest("plot_transfer"),
    script:
        "../workflow_scripts/plot_transfer.py"
