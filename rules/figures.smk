"""Figures, each drawn from tables that are outputs too, as PDF, SVG and PNG."""

from vlmdiff.config.cases import asked_data, scored_seeds
from vlmdiff.config.checkpoints import snapshots

# Quality tables of all dictionaries and seeds.
METRICS = [
    results(f"dictionaries/{name}/seed_{seed}/metrics.csv")
    for name in sorted({name for entry in CFG.evaluation for name in entry.dictionaries})
    for seed in scored_seeds(CFG, name)
]
# Accuracies of the world's checkpoints; none where no model of the config is one of them.
ACCURACY = [world_accuracy()] if checkpoints(CFG) else []
# Accuracies of the model under study on the test sets; none without any.
ASKED = [results(f"accuracy/{CFG.diff.model}.csv")] if asked_data(CFG) else []


rule plot_fvu_by_layer:
    """Draw held-out FVU by layer."""
    input:
        metrics=METRICS,
    output:
        **figure("fvu_by_layer", "Dictionaries", "FVU by layer"),
    script:
        "../workflow_scripts/plot_fvu_by_layer.py"


rule plot_training_dynamics:
    """Draw how dictionaries and model change while they are trained."""
    input:
        metrics=METRICS,
        accuracy=ACCURACY,
    output:
        **figure("training_dynamics", "Dictionaries", "Training dynamics"),
    params:
        checkpoints=checkpoints(CFG),
        snapshots=snapshots(CFG),
    script:
        "../workflow_scripts/plot_training_dynamics.py"


rule plot_model_accuracy:
    """Draw the accuracies of the models, compared with chance."""
    input:
        accuracy=ACCURACY,
        asked=ASKED,
    output:
        **figure("model_accuracy", "Models", "Accuracy"),
    params:
        checkpoints=checkpoints(CFG),
        model=CFG.diff.model,
    script:
        "../workflow_scripts/plot_model_accuracy.py"


rule plot_cosine_distributions:
    """Draw the decoder cosines of adapted and null."""
    input:
        adapted=expand(results("features/main/seed_{seed}/adapted.parquet"), seed=SEEDS),
        thresholds=expand(results("features/main/seed_{seed}/thresholds.csv"), seed=SEEDS),
    output:
        **figure("cosine_distributions", "Adapted features", "Cosines, adapted and null"),
    script:
        "../workflow_scripts/plot_cosine_distributions.py"


rule plot_adapted_by_layer:
    """Draw the number of adapted features by layer."""
    input:
        thresholds=expand(results("features/main/seed_{seed}/thresholds.csv"), seed=SEEDS),
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
        min_odds_ratio=lambda wildcards: CFG.concepts[wildcards.concept].min_odds_ratio,
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
    """Draw the strongest samples of the best features on their images, and write the table behind them."""
    input:
        top_samples=lambda wildcards: feature_tables(
            "top_samples", MAIN, wildcards.seed, [CFG.concepts[wildcards.concept].target.dataset]
        ),
        ranking=lambda wildcards: expand(rules.rank_features.output[0], **wildcards) if CFG.ablation else [],
        final=results("features/main/seed_{seed}/{concept}/final_features.csv"),
        samples=lambda wildcards: samples_file(CFG.concepts[wildcards.concept].target.dataset),
        model=config_file(CFG.diff.model),
    output:
        **{"table": results("figures/seed_{seed}/{concept}/top_samples_gallery.csv")},
        **figure("seed_{seed}/{concept}/top_samples", "Concepts", "Top samples"),
    params:
        groups=lambda wildcards: CFG.concepts[wildcards.concept].target.groups,
        # Rows and columns; five of each fill a page.
        features=5,
        samples=5,
    script:
        "../workflow_scripts/plot_top_samples.py"


rule plot_ablation_effects:
    """Draw the test effects of ablated features and sets."""
    input:
        ablation=ablation_tables,
    output:
        **figure("seed_{seed}/{concept}/ablation_effects", "Interventions", "Ablation"),
    params:
        target=lambda wildcards: CFG.ablation.report_on.target,
        control=lambda wildcards: CFG.ablation.report_on.control,
    script:
        "../workflow_scripts/plot_ablation_effects.py"


rule plot_ablation_by_group:
    """Draw the test effects of ablated sets by relation and kind of question."""
    input:
        ablation=ablation_tables,
    output:
        **figure("seed_{seed}/{concept}/ablation_by_group", "Interventions", "Ablation by group"),
    params:
        target=lambda wildcards: CFG.ablation.report_on.target,
        control=lambda wildcards: CFG.ablation.report_on.control,
    script:
        "../workflow_scripts/plot_ablation_by_group.py"


rule plot_head_attribution:
    """Draw layer x head maps of attribution."""
    input:
        attribution=results("heads/seed_{seed}/{concept}/attribution.csv"),
        scores=results("heads/seed_{seed}/{concept}/scores.csv"),
    output:
        **figure("seed_{seed}/{concept}/head_attribution", "Heads", "Attribution maps"),
    script:
        "../workflow_scripts/plot_head_attribution.py"


rule plot_attribution_vs_exact:
    """Draw attribution against exact patching."""
    input:
        attribution=results("heads/seed_{seed}/{concept}/attribution.csv"),
        patching=results("heads/seed_{seed}/{concept}/patching.csv"),
        agreement=results("heads/seed_{seed}/{concept}/agreement.csv"),
    output:
        **figure("seed_{seed}/{concept}/attribution_vs_exact", "Heads", "Attribution against exact patching"),
    script:
        "../workflow_scripts/plot_attribution_vs_exact.py"


rule plot_head_ablation:
    """Draw the test effects of ablated heads."""
    input:
        ablation=results("heads/seed_{seed}/{concept}/head_ablation.csv"),
    output:
        **figure("seed_{seed}/{concept}/head_ablation", "Heads", "Head ablation"),
    params:
        target=lambda wildcards: CFG.heads.report_on.target,
        control=lambda wildcards: CFG.heads.report_on.control,
    script:
        "../workflow_scripts/plot_head_ablation.py"


rule plot_attention_map:
    """Draw the attention of the top heads over the images."""
    input:
        attention=results("heads/seed_{seed}/{concept}/attention.csv"),
        samples=lambda wildcards: samples_file(CFG.heads.dataset),
    output:
        **figure("seed_{seed}/{concept}/attention_map", "Heads", "Attention"),
    script:
        "../workflow_scripts/plot_attention_map.py"
