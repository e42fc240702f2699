"""Figures, each drawn from tables that are outputs too, as PDF, SVG and PNG."""

from vlmdiff.config.cases import reported_rules
from vlmdiff.config.checkpoints import snapshots


rule plot_fvu_by_layer:
    """Draw held-out FVU by layer."""
    input:
        metrics=TABLES["metrics"],
    output:
        **figure("fvu_by_layer", "Dictionaries", "FVU by layer"),
    script:
        "../workflow_scripts/plot_fvu_by_layer.py"


rule plot_training_dynamics:
    """Draw how dictionaries and model change while they are trained."""
    input:
        metrics=TABLES["metrics"],
        accuracy=TABLES["accuracy"],
    output:
        **figure("training_dynamics", "Dictionaries", "Training dynamics"),
    params:
        checkpoints=checkpoints(CFG),
        snapshots=snapshots(CFG),
    script:
        "../workflow_scripts/plot_training_dynamics.py"


rule plot_model_accuracy:
    """Draw the accuracies of the models beside chance."""
    input:
        accuracy=TABLES["accuracy"],
        asked=TABLES["asked"],
    output:
        **figure("model_accuracy", "Models and data", "Accuracy"),
    params:
        checkpoints=checkpoints(CFG),
        model=CFG.diff.model,
    script:
        "../workflow_scripts/plot_model_accuracy.py"


rule plot_cosine_distributions:
    """Draw the decoder cosines of adapted and null."""
    input:
        adapted=expand(results("features/main/seed_{seed}/adapted.parquet"), seed=SEEDS),
        thresholds=TABLES["thresholds"],
    output:
        **figure("cosine_distributions", "Adapted features", "Cosines, adapted and null"),
    script:
        "../workflow_scripts/plot_cosine_distributions.py"


rule plot_adapted_by_layer:
    """Draw the number of adapted features by layer."""
    input:
        thresholds=TABLES["thresholds"],
    output:
        **figure("adapted_by_layer", "Adapted features", "Adapted features by layer"),
    script:
        "../workflow_scripts/plot_adapted_by_layer.py"


rule plot_threshold_robustness:
    """Draw how the selection moves with its thresholds."""
    input:
        sweep=expand(results("features/main/seed_{seed}/threshold_sweep.csv"), seed=SEEDS),
    output:
        **figure("threshold_robustness", "Adapted features", "Threshold robustness"),
    params:
        eps=CFG.diff.eps,
        percentile=CFG.diff.percentile,
    script:
        "../workflow_scripts/plot_threshold_robustness.py"


rule plot_energy_vs_cosine:
    """Draw visual energy against decoder cosine."""
    input:
        adapted=results("features/main/seed_{seed}/adapted.parquet"),
        thresholds=results("features/main/seed_{seed}/thresholds.csv"),
        final=results("features/main/seed_{seed}/{concept}/final_features.csv"),
    output:
        **figure("seed_{seed}/{concept}/energy_vs_cosine", "Adapted features", "Visual energy and cosine"),
    script:
        "../workflow_scripts/plot_energy_vs_cosine.py"


rule plot_contrast_volcano:
    """Draw effect against significance of the concept contrast."""
    input:
        contrast=results("features/main/seed_{seed}/{concept}/contrast.parquet"),
        adapted=results("features/main/seed_{seed}/adapted.parquet"),
        final=results("features/main/seed_{seed}/{concept}/final_features.csv"),
    output:
        **figure("seed_{seed}/{concept}/contrast_volcano", "Concepts", "Contrast"),
    params:
        by=lambda wildcards: CFG.concepts[wildcards.concept].contrast,
        smallest=lambda wildcards: CFG.concepts[wildcards.concept].smallest_effect,
    script:
        "../workflow_scripts/plot_contrast_volcano.py"


rule plot_funnel:
    """Draw the features that each filter leaves."""
    input:
        funnel=results("features/main/seed_{seed}/{concept}/funnel.csv"),
    output:
        **figure("seed_{seed}/{concept}/funnel", "Concepts", "Funnel"),
    script:
        "../workflow_scripts/plot_funnel.py"


rule plot_top_samples:
    """Draw the strongest samples of the best features on their images."""
    input:
        gallery=rules.collect_gallery.output.table,
        patches=rules.collect_gallery.output.patches,
        samples=lambda wildcards: FILES.samples(concept_datasets(wildcards)[0]),
    output:
        **figure("seed_{seed}/{concept}/top_samples", "Concepts", "Top samples"),
    script:
        "../workflow_scripts/plot_top_samples.py"


rule plot_ablation_effects:
    """Draw the test effects of ablated features and sets."""
    input:
        ablation=ablation_tables,
    output:
        **figure("seed_{seed}/{concept}/ablation_effects", "Interventions", "Ablation"),
    params:
        **dict(zip(("target", "control"), reported_data(CFG.ablation))),
    script:
        "../workflow_scripts/plot_ablation_effects.py"


rule plot_ablation_by_group:
    """Draw the test effects of ablated sets by relation and kind of question."""
    input:
        ablation=ablation_tables,
    output:
        **figure("seed_{seed}/{concept}/ablation_by_group", "Interventions", "Ablation by group"),
    params:
        **dict(zip(("target", "control"), reported_data(CFG.ablation))),
    script:
        "../workflow_scripts/plot_ablation_by_group.py"


rule plot_steering:
    """Draw the dose-response of steering."""
    input:
        rules.evaluate_steering.output[0],
    output:
        **figure("seed_{seed}/{concept}/steering", "Interventions", "Steering"),
    params:
        **dict(zip(("target", "control"), reported_data(CFG.steering))),
    script:
        "../workflow_scripts/plot_steering.py"


rule plot_head_attribution:
    """Draw layer x head maps of attribution."""
    input:
        attribution=rules.attribute_heads.output[0],
        scores=rules.aggregate_heads.output[0],
    output:
        **figure("seed_{seed}/{concept}/head_attribution", "Heads", "Attribution maps"),
    script:
        "../workflow_scripts/plot_head_attribution.py"


rule plot_attribution_vs_exact:
    """Draw attribution against exact patching."""
    input:
        attribution=rules.attribute_heads.output[0],
        patching=rules.patch_heads.output.patching,
        agreement=rules.patch_heads.output.agreement,
    output:
        **figure("seed_{seed}/{concept}/attribution_vs_exact", "Heads", "Attribution against exact patching"),
    script:
        "../workflow_scripts/plot_attribution_vs_exact.py"


rule plot_head_ablation:
    """Draw the test effects of ablated heads."""
    input:
        ablation=rules.evaluate_head_ablation.output[0],
    output:
        **figure("seed_{seed}/{concept}/head_ablation", "Heads", "Head ablation"),
    params:
        **dict(zip(("target", "control"), reported_data(CFG.heads))),
    script:
        "../workflow_scripts/plot_head_ablation.py"


rule plot_attention_map:
    """Draw the attention of the top heads over the images."""
    input:
        attention=rules.map_attention.output[0],
        samples=lambda wildcards: FILES.samples(CFG.heads.dataset),
    output:
        **figure("seed_{seed}/{concept}/attention_map", "Heads", "Attention"),
    script:
        "../workflow_scripts/plot_attention_map.py"


rule plot_selection_rules:
    """Draw what each selection rule's features do."""
    input:
        selection=TABLES["selection"],
    output:
        **figure("{concept}/selection_rules", "How sure are we", "Selection rules"),
    params:
        **dict(zip(("target", "control"), reported_data(CFG.ablation))),
        sizes=lambda wildcards: CFG.ablation.selection_sizes,
        rules=reported_rules(CFG),
    script:
        "../workflow_scripts/plot_selection_rules.py"


rule plot_recurrence:
    """Draw how findings recur over seeds."""
    input:
        recurrence=rules.match_seeds.output[0],
    output:
        **figure("{concept}/recurrence", "How sure are we", "Recurrence over seeds"),
    script:
        "../workflow_scripts/plot_recurrence.py"


rule plot_ground_truth:
    """Draw what final features really tell, and how good each selection rule is."""
    input:
        truth=expand(results("ground_truth/seed_{seed}/features.parquet"), seed=SEEDS),
        quality=[results(f"ground_truth/seed_{seed}/{{concept}}/rule_quality.csv") for seed in SEEDS],
        final=[results(f"features/main/seed_{seed}/{{concept}}/final_features.csv") for seed in SEEDS],
    output:
        **figure("{concept}/ground_truth", "How sure are we", "Ground truth"),
    script:
        "../workflow_scripts/plot_ground_truth.py"


rule plot_comparisons:
    """Draw all comparisons of a target side by side."""
    input:
        comparisons=rules.summarise_comparisons.output[0],
    output:
        **figure("{target}/{concept}/comparisons", "How sure are we", "{target}"),
    params:
        ablated=CFG.ablation is not None,
    script:
        "../workflow_scripts/plot_comparisons.py"


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
        **dict(zip(("target", "control"), reported_data(CFG.ablation))),
    script:
        "../workflow_scripts/plot_transfer.py"
