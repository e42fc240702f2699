"""Figures that say how sure the findings are."""

from vlmdiff.config.cases import reported_rules


rule plot_comparisons:
    """Draw all comparisons of a target side by side."""
    input:
        comparisons=rules.summarise_comparisons.output[0],
    output:
        **figure("{target}/{concept}/comparisons", "How sure are we", "{target}", "comparisons_figure"),
    wildcard_constraints:
        target=one_of(TARGETS),
    params:
        ablated=CFG.ablation is not None,
    script:
        "../workflow_scripts/plot_comparisons.py"


rule plot_selection_rules:
    """Draw what each selection rule's features do."""
    input:
        selection=default_selections,
    output:
        **figure("{concept}/selection_rules", "How sure are we", "Selection rules"),
    params:
        target=lambda wildcards: CFG.ablation.report_on.target,
        control=lambda wildcards: CFG.ablation.report_on.control,
        sizes=lambda wildcards: CFG.ablation.selection_sizes,
        rules=reported_rules(CFG),
    script:
        "../workflow_scripts/plot_selection_rules.py"


rule plot_recurrence:
    """Draw how findings recur over seeds."""
    input:
        recurrence=rules.match_seeds.output[0],
    output:
        **figure("{concept}/recurrence", "How sure are we", "Recurrence over seeds", "recurrence_figure"),
    script:
        "../workflow_scripts/plot_recurrence.py"


rule plot_stage_grid:
    """Draw rotations along the edges of the stage grid."""
    input:
        grid=results("stages/seed_0/grid.parquet"),
    output:
        **figure("stages/stage_grid", "How sure are we", "Stage grid"),
    script:
        "../workflow_scripts/plot_stage_grid.py"


rule plot_transfer:
    """Draw what the same directions do at other stages of the model."""
    input:
        transfer=results("stages/seed_0/{concept}/transfer.csv"),
    output:
        **figure("stages/{concept}/transfer", "How sure are we", "Transfer over stages"),
    params:
        target=lambda wildcards: CFG.ablation.report_on.target,
        control=lambda wildcards: CFG.ablation.report_on.control,
    script:
        "../workflow_scripts/plot_transfer.py"
