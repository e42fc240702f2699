"""Figures, each drawn from tables that are outputs too, as PDF, SVG and PNG."""


rule plot_fvu_by_layer:
    input:
        metrics=dictionary_metrics(),
    output:
        pdf=f"{FIGURES}/fvu_by_layer.pdf",
        png=f"{FIGURES}/fvu_by_layer.png",
        svg=report(
            f"{FIGURES}/fvu_by_layer.svg",
            caption="captions/fvu_by_layer.rst",
            category="Dictionaries",
            labels={"figure": "FVU by layer"},
        ),
    log:
        f"{RESULTS}/logs/plot_fvu_by_layer.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_fvu_by_layer.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("plot_fvu_by_layer", mem_mb=1000, runtime=5),
    params:
        code=code_digest("plot_fvu_by_layer"),
    script:
        "../workflow_scripts/plot_fvu_by_layer.py"


rule plot_training_dynamics:
    input:
        metrics=dictionary_metrics(),
        accuracy=accuracy_tables(),
    output:
        pdf=f"{FIGURES}/training_dynamics.pdf",
        png=f"{FIGURES}/training_dynamics.png",
        svg=report(
            f"{FIGURES}/training_dynamics.svg",
            caption="captions/training_dynamics.rst",
            category="Dictionaries",
            labels={"figure": "Training dynamics"},
        ),
    log:
        f"{RESULTS}/logs/plot_training_dynamics.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_training_dynamics.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("plot_training_dynamics", mem_mb=1000, runtime=5),
    params:
        checkpoints=checkpoints(CFG),
        snapshots=snapshots(CFG),
        code=code_digest("plot_training_dynamics"),
    script:
        "../workflow_scripts/plot_training_dynamics.py"


rule plot_model_accuracy:
    input:
        accuracy=accuracy_tables(),
        asked=asked_tables(),
    output:
        pdf=f"{FIGURES}/model_accuracy.pdf",
        png=f"{FIGURES}/model_accuracy.png",
        svg=report(
            f"{FIGURES}/model_accuracy.svg",
            caption="captions/model_accuracy.rst",
            category="Models",
            labels={"figure": "Accuracy"},
        ),
    log:
        f"{RESULTS}/logs/plot_model_accuracy.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_model_accuracy.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("plot_model_accuracy", mem_mb=1000, runtime=5),
    params:
        checkpoints=checkpoints(CFG),
        model=CFG.diff.model,
        code=code_digest("plot_model_accuracy"),
    script:
        "../workflow_scripts/plot_model_accuracy.py"


rule plot_cosine_distributions:
    input:
        adapted=expand(f"{RESULTS}/features/main/seed_{{seed}}/adapted.parquet", seed=SEEDS),
        thresholds=expand(f"{RESULTS}/features/main/seed_{{seed}}/thresholds.csv", seed=SEEDS),
    output:
        pdf=f"{FIGURES}/cosine_distributions.pdf",
        png=f"{FIGURES}/cosine_distributions.png",
        svg=report(
            f"{FIGURES}/cosine_distributions.svg",
            caption="captions/cosine_distributions.rst",
            category="Adapted features",
            labels={"figure": "Cosines, adapted and null"},
        ),
    log:
        f"{RESULTS}/logs/plot_cosine_distributions.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_cosine_distributions.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("plot_cosine_distributions", mem_mb=1000, runtime=5),
    params:
        code=code_digest("plot_cosine_distributions"),
    script:
        "../workflow_scripts/plot_cosine_distributions.py"


rule plot_adapted_by_layer:
    input:
        thresholds=expand(f"{RESULTS}/features/main/seed_{{seed}}/thresholds.csv", seed=SEEDS),
    output:
        pdf=f"{FIGURES}/adapted_by_layer.pdf",
        png=f"{FIGURES}/adapted_by_layer.png",
        svg=report(
            f"{FIGURES}/adapted_by_layer.svg",
            caption="captions/adapted_by_layer.rst",
            category="Adapted features",
            labels={"figure": "Adapted features by layer"},
        ),
    log:
        f"{RESULTS}/logs/plot_adapted_by_layer.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_adapted_by_layer.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("plot_adapted_by_layer", mem_mb=1000, runtime=5),
    params:
        code=code_digest("plot_adapted_by_layer"),
    script:
        "../workflow_scripts/plot_adapted_by_layer.py"


rule plot_threshold_robustness:
    input:
        sweep=expand(f"{RESULTS}/features/main/seed_{{seed}}/threshold_sweep.csv", seed=SEEDS),
    output:
        pdf=f"{FIGURES}/threshold_robustness.pdf",
        png=f"{FIGURES}/threshold_robustness.png",
        svg=report(
            f"{FIGURES}/threshold_robustness.svg",
            caption="captions/threshold_robustness.rst",
            category="Adapted features",
            labels={"figure": "Threshold robustness"},
        ),
    log:
        f"{RESULTS}/logs/plot_threshold_robustness.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_threshold_robustness.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("plot_threshold_robustness", mem_mb=1000, runtime=5),
    params:
        eps=CFG.diff.eps,
        percentile=CFG.diff.percentile,
        code=code_digest("plot_threshold_robustness"),
    script:
        "../workflow_scripts/plot_threshold_robustness.py"


rule plot_energy_vs_cosine:
    input:
        adapted=f"{RESULTS}/features/main/seed_{{seed}}/adapted.parquet",
        thresholds=f"{RESULTS}/features/main/seed_{{seed}}/thresholds.csv",
        final=f"{RESULTS}/features/main/seed_{{seed}}/{{concept}}/final_features.csv",
    output:
        pdf=f"{CONCEPT_FIGURES}/energy_vs_cosine.pdf",
        png=f"{CONCEPT_FIGURES}/energy_vs_cosine.png",
        svg=report(
            f"{CONCEPT_FIGURES}/energy_vs_cosine.svg",
            caption="captions/energy_vs_cosine.rst",
            category="Adapted features",
            labels={"figure": "Visual energy and cosine", "concept": "{concept}", "seed": "{seed}"},
        ),
    log:
        f"{RESULTS}/logs/plot_energy_vs_cosine/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_energy_vs_cosine/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("plot_energy_vs_cosine", mem_mb=1000, runtime=5),
    params:
        code=code_digest("plot_energy_vs_cosine"),
    script:
        "../workflow_scripts/plot_energy_vs_cosine.py"


rule plot_contrast_volcano:
    input:
        contrast=f"{RESULTS}/features/main/seed_{{seed}}/{{concept}}/contrast.parquet",
        adapted=f"{RESULTS}/features/main/seed_{{seed}}/adapted.parquet",
        final=f"{RESULTS}/features/main/seed_{{seed}}/{{concept}}/final_features.csv",
    output:
        pdf=f"{CONCEPT_FIGURES}/contrast_volcano.pdf",
        png=f"{CONCEPT_FIGURES}/contrast_volcano.png",
        svg=report(
            f"{CONCEPT_FIGURES}/contrast_volcano.svg",
            caption="captions/contrast_volcano.rst",
            category="Concepts",
            labels={"figure": "Contrast", "concept": "{concept}", "seed": "{seed}"},
        ),
    log:
        f"{RESULTS}/logs/plot_contrast_volcano/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_contrast_volcano/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("plot_contrast_volcano", mem_mb=1000, runtime=5),
    params:
        min_odds_ratio=lambda wildcards: CFG.concepts[wildcards.concept].min_odds_ratio,
        code=code_digest("plot_contrast_volcano"),
    script:
        "../workflow_scripts/plot_contrast_volcano.py"


rule plot_funnel:
    input:
        funnel=f"{RESULTS}/features/main/seed_{{seed}}/{{concept}}/funnel.csv",
    output:
        pdf=f"{CONCEPT_FIGURES}/funnel.pdf",
        png=f"{CONCEPT_FIGURES}/funnel.png",
        svg=report(
            f"{CONCEPT_FIGURES}/funnel.svg",
            caption="captions/funnel.rst",
            category="Concepts",
            labels={"figure": "Funnel", "concept": "{concept}", "seed": "{seed}"},
        ),
    log:
        f"{RESULTS}/logs/plot_funnel/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_funnel/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("plot_funnel", mem_mb=1000, runtime=5),
    params:
        code=code_digest("plot_funnel"),
    script:
        "../workflow_scripts/plot_funnel.py"


rule plot_top_samples:
    input:
        top_samples=concept_top_samples,
        ranking=concept_ranking,
        final=f"{RESULTS}/features/main/seed_{{seed}}/{{concept}}/final_features.csv",
        samples=lambda wildcards: samples_file(CFG.concepts[wildcards.concept].target.dataset),
        model=f"{model_path(CFG.diff.model)}/config.json",
    output:
        table=f"{CONCEPT_FIGURES}/top_samples_gallery.csv",
        pdf=f"{CONCEPT_FIGURES}/top_samples.pdf",
        png=f"{CONCEPT_FIGURES}/top_samples.png",
        svg=report(
            f"{CONCEPT_FIGURES}/top_samples.svg",
            caption="captions/top_samples.rst",
            category="Concepts",
            labels={"figure": "Top samples", "concept": "{concept}", "seed": "{seed}"},
        ),
    log:
        f"{RESULTS}/logs/plot_top_samples/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_top_samples/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("plot_top_samples", mem_mb=1000, runtime=5),
    params:
        groups=lambda wildcards: CFG.concepts[wildcards.concept].target.groups,
        features=GALLERY_FEATURES,
        samples=GALLERY_SAMPLES,
        code=code_digest("plot_top_samples"),
    script:
        "../workflow_scripts/plot_top_samples.py"


rule plot_ablation_effects:
    input:
        ablation=ablation_tables,
    output:
        pdf=f"{CONCEPT_FIGURES}/ablation_effects.pdf",
        png=f"{CONCEPT_FIGURES}/ablation_effects.png",
        svg=report(
            f"{CONCEPT_FIGURES}/ablation_effects.svg",
            caption="captions/ablation_effects.rst",
            category="Interventions",
            labels={"figure": "Ablation", "concept": "{concept}", "seed": "{seed}"},
        ),
    log:
        f"{RESULTS}/logs/plot_ablation_effects/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_ablation_effects/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("plot_ablation_effects", mem_mb=1000, runtime=5),
    params:
        target=lambda wildcards: CFG.ablation.report_on.target,
        control=lambda wildcards: CFG.ablation.report_on.control,
        code=code_digest("plot_ablation_effects"),
    script:
        "../workflow_scripts/plot_ablation_effects.py"


rule plot_ablation_by_group:
    input:
        ablation=ablation_tables,
    output:
        pdf=f"{CONCEPT_FIGURES}/ablation_by_group.pdf",
        png=f"{CONCEPT_FIGURES}/ablation_by_group.png",
        svg=report(
            f"{CONCEPT_FIGURES}/ablation_by_group.svg",
            caption="captions/ablation_by_group.rst",
            category="Interventions",
            labels={"figure": "Ablation by group", "concept": "{concept}", "seed": "{seed}"},
        ),
    log:
        f"{RESULTS}/logs/plot_ablation_by_group/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_ablation_by_group/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("plot_ablation_by_group", mem_mb=1000, runtime=5),
    params:
        target=lambda wildcards: CFG.ablation.report_on.target,
        control=lambda wildcards: CFG.ablation.report_on.control,
        code=code_digest("plot_ablation_by_group"),
    script:
        "../workflow_scripts/plot_ablation_by_group.py"


rule plot_head_attribution:
    input:
        attribution=f"{RESULTS}/heads/seed_{{seed}}/{{concept}}/attribution.csv",
        scores=f"{RESULTS}/heads/seed_{{seed}}/{{concept}}/scores.csv",
    output:
        pdf=f"{CONCEPT_FIGURES}/head_attribution.pdf",
        png=f"{CONCEPT_FIGURES}/head_attribution.png",
        svg=report(
            f"{CONCEPT_FIGURES}/head_attribution.svg",
            caption="captions/head_attribution.rst",
            category="Heads",
            labels={"figure": "Attribution maps", "concept": "{concept}", "seed": "{seed}"},
        ),
    log:
        f"{RESULTS}/logs/plot_head_attribution/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_head_attribution/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("plot_head_attribution", mem_mb=1000, runtime=5),
    params:
        code=code_digest("plot_head_attribution"),
    script:
        "../workflow_scripts/plot_head_attribution.py"


rule plot_attribution_vs_exact:
    input:
        attribution=f"{RESULTS}/heads/seed_{{seed}}/{{concept}}/attribution.csv",
        patching=f"{RESULTS}/heads/seed_{{seed}}/{{concept}}/patching.csv",
        agreement=f"{RESULTS}/heads/seed_{{seed}}/{{concept}}/agreement.csv",
    output:
        pdf=f"{CONCEPT_FIGURES}/attribution_vs_exact.pdf",
        png=f"{CONCEPT_FIGURES}/attribution_vs_exact.png",
        svg=report(
            f"{CONCEPT_FIGURES}/attribution_vs_exact.svg",
            caption="captions/attribution_vs_exact.rst",
            category="Heads",
            labels={
                "figure": "Attribution against exact patching",
                "concept": "{concept}",
                "seed": "{seed}",
            },
        ),
    log:
        f"{RESULTS}/logs/plot_attribution_vs_exact/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_attribution_vs_exact/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("plot_attribution_vs_exact", mem_mb=1000, runtime=5),
    params:
        code=code_digest("plot_attribution_vs_exact"),
    script:
        "../workflow_scripts/plot_attribution_vs_exact.py"


rule plot_head_ablation:
    input:
        ablation=f"{RESULTS}/heads/seed_{{seed}}/{{concept}}/head_ablation.csv",
    output:
        pdf=f"{CONCEPT_FIGURES}/head_ablation.pdf",
        png=f"{CONCEPT_FIGURES}/head_ablation.png",
        svg=report(
            f"{CONCEPT_FIGURES}/head_ablation.svg",
            caption="captions/head_ablation.rst",
            category="Heads",
            labels={"figure": "Head ablation", "concept": "{concept}", "seed": "{seed}"},
        ),
    log:
        f"{RESULTS}/logs/plot_head_ablation/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_head_ablation/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("plot_head_ablation", mem_mb=1000, runtime=5),
    params:
        target=lambda wildcards: CFG.heads.report_on.target,
        control=lambda wildcards: CFG.heads.report_on.control,
        code=code_digest("plot_head_ablation"),
    script:
        "../workflow_scripts/plot_head_ablation.py"


rule plot_attention_map:
    input:
        attention=f"{RESULTS}/heads/seed_{{seed}}/{{concept}}/attention.csv",
        samples=lambda wildcards: samples_file(CFG.heads.dataset),
    output:
        pdf=f"{CONCEPT_FIGURES}/attention_map.pdf",
        png=f"{CONCEPT_FIGURES}/attention_map.png",
        svg=report(
            f"{CONCEPT_FIGURES}/attention_map.svg",
            caption="captions/attention_map.rst",
            category="Heads",
            labels={"figure": "Attention", "concept": "{concept}", "seed": "{seed}"},
        ),
    log:
        f"{RESULTS}/logs/plot_attention_map/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_attention_map/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("plot_attention_map", mem_mb=1000, runtime=5),
    params:
        code=code_digest("plot_attention_map"),
    script:
        "../workflow_scripts/plot_attention_map.py"
