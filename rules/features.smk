# From dictionaries and activations to the features that changed, see, and encode a concept.


rule feature_statistics:
    input:
        shards=lambda wildcards: shards(wildcards.model, wildcards.dataset, wildcards.layer),
        dictionary=lambda wildcards: dictionary_file(wildcards.dictionary, wildcards.seed, wildcards.layer),
    output:
        statistics=f"{STATISTICS}/{{dictionary}}/seed_{{seed}}/{{model}}/{{dataset}}/layer_{{layer}}/statistics.parquet",
        totals=f"{STATISTICS}/{{dictionary}}/seed_{{seed}}/{{model}}/{{dataset}}/layer_{{layer}}/totals.parquet",
        top_samples=f"{STATISTICS}/{{dictionary}}/seed_{{seed}}/{{model}}/{{dataset}}/layer_{{layer}}/top_samples.parquet",
    log:
        f"{RESULTS}/logs/feature_statistics/{{dictionary}}/seed_{{seed}}/{{model}}/{{dataset}}/layer_{{layer}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/feature_statistics/{{dictionary}}/seed_{{seed}}/{{model}}/{{dataset}}/layer_{{layer}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        **rule_resources("feature_statistics", mem_mb=2000, runtime=60),
    params:
        top=CFG.lexical.samples,
        code=code_digest("feature_statistics"),
    script:
        "../workflow_scripts/feature_statistics.py"


rule diff_features:
    input:
        base=compared("base"),
        adapted=compared("adapted"),
        null=compared("null"),
        null_check=second_null,
        untuned=untuned_null,
        visual_statistics=diff_tables("statistics", "visual_datasets"),
        visual_totals=diff_tables("totals", "visual_datasets"),
        text_statistics=diff_tables("statistics", "text_datasets"),
        text_totals=diff_tables("totals", "text_datasets"),
    output:
        f"{FEATURES}/diff.parquet",
    log:
        f"{RESULTS}/logs/diff_features/{{comparison}}/seed_{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/diff_features/{{comparison}}/seed_{{seed}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("diff_features", mem_mb=1000, runtime=30),
    params:
        layers=LAYERS,
        code=code_digest("diff_features"),
    script:
        "../workflow_scripts/diff_features.py"


rule select_adapted:
    input:
        f"{FEATURES}/diff.parquet",
    output:
        adapted=f"{FEATURES}/adapted.parquet",
        thresholds=report(
            f"{FEATURES}/thresholds.csv",
            caption="captions/thresholds.rst",
            category="Adapted features",
            labels={"table": "Thresholds", "seed": "{seed}", "comparison": "{comparison}"},
        ),
        sweep=report(
            f"{FEATURES}/threshold_sweep.csv",
            caption="captions/threshold_sweep.rst",
            category="Adapted features",
            labels={"table": "Threshold sweep", "seed": "{seed}", "comparison": "{comparison}"},
        ),
    log:
        f"{RESULTS}/logs/select_adapted/{{comparison}}/seed_{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/select_adapted/{{comparison}}/seed_{{seed}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("select_adapted", mem_mb=1000, runtime=10),
    params:
        diff=lambda wildcards: CFG.comparison(wildcards.comparison).params(
            "base", "adapted", "null", "null_check", "untuned", "model", "visual_datasets", "text_datasets"
        ),
        code=code_digest("select_adapted"),
    script:
        "../workflow_scripts/select_adapted.py"


rule contrast_concept:
    input:
        target_statistics=concept_tables("statistics", "target"),
        target_totals=concept_tables("totals", "target"),
        baseline_statistics=concept_tables("statistics", "baseline"),
        baseline_totals=concept_tables("totals", "baseline"),
        samples=lambda wildcards: [samples_file(name) for name in concept_datasets(wildcards.concept)],
        # A published dictionary has as many features as it has, whatever `architecture` says.
        dictionaries=compared("adapted", "cfg.json"),
    output:
        f"{FEATURES}/{{concept}}/contrast.parquet",
    log:
        f"{RESULTS}/logs/contrast_concept/{{comparison}}/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/contrast_concept/{{comparison}}/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("contrast_concept", mem_mb=1000, runtime=30),
    params:
        target=sample_set("target"),
        baseline=sample_set("baseline"),
        samples=lambda wildcards: [CFG.dataset(name).samples for name in concept_datasets(wildcards.concept)],
        criteria=lambda wildcards: CFG.concept(wildcards.concept, wildcards.comparison).params(
            "target", "baseline", "unit", "words", "lexical", "compared"
        ),
        code=code_digest("contrast_concept"),
    script:
        "../workflow_scripts/contrast_concept.py"


rule lexical_filter:
    input:
        adapted=f"{FEATURES}/adapted.parquet",
        contrast=f"{FEATURES}/{{concept}}/contrast.parquet",
        dictionaries=compared("adapted"),
        top_samples=concept_tables("top_samples", "target"),
        totals=concept_tables("totals", "target"),
        samples=lambda wildcards: samples_file(CFG.concepts[wildcards.concept].target.dataset),
        model=lambda wildcards: f"{model_path(compared_model(wildcards))}/config.json",
        weights=lambda wildcards: weight_files(compared_model(wildcards)),
    output:
        f"{FEATURES}/{{concept}}/lexical.parquet",
    log:
        f"{RESULTS}/logs/lexical_filter/{{comparison}}/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/lexical_filter/{{comparison}}/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        **rule_resources("lexical_filter", mem_mb=2000, runtime=60),
    params:
        model=compared_model,
        subject=lambda wildcards: subject_params(compared_model(wildcards)),
        layers=LAYERS,
        target=sample_set("target"),
        unit=concept_unit,
        eps=lambda wildcards: CFG.comparison(wildcards.comparison).eps,
        strongest=CFG.lexical.samples,
        prompts=CFG.lexical.prompts,
        describe_tokens=CFG.lexical.describe_tokens,
        words=concept_words,
        criteria=lexical_criteria,
        batch_tokens=CFG.extraction.batch_tokens,
        massive_ratio=CFG.extraction.massive_ratio,
        code=code_digest("lexical_filter"),
    script:
        "../workflow_scripts/lexical_filter.py"


rule select_features:
    input:
        adapted=f"{FEATURES}/adapted.parquet",
        contrast=f"{FEATURES}/{{concept}}/contrast.parquet",
        lexical=f"{FEATURES}/{{concept}}/lexical.parquet",
    output:
        funnel=report(
            f"{FEATURES}/{{concept}}/funnel.csv",
            caption="captions/funnel_table.rst",
            category="Concepts",
            labels={
                "table": "Funnel",
                "concept": "{concept}",
                "seed": "{seed}",
                "comparison": "{comparison}",
            },
        ),
        final=report(
            f"{FEATURES}/{{concept}}/final_features.csv",
            caption="captions/final_features.rst",
            category="Concepts",
            labels={
                "table": "Final features",
                "concept": "{concept}",
                "seed": "{seed}",
                "comparison": "{comparison}",
            },
        ),
        check=report(
            f"{FEATURES}/{{concept}}/contrast_check.csv",
            caption="captions/contrast_check.rst",
            category="How sure are we",
            labels={"table": "Independent tokens or samples", "concept": "{concept}", "seed": "{seed}"},
        ),
    log:
        f"{RESULTS}/logs/select_features/{{comparison}}/seed_{{seed}}/{{concept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/select_features/{{comparison}}/seed_{{seed}}/{{concept}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("select_features", mem_mb=1000, runtime=10),
    params:
        unit=concept_unit,
        eps=lambda wildcards: CFG.comparison(wildcards.comparison).eps,
        fdr=lambda wildcards: CFG.concepts[wildcards.concept].fdr,
        code=code_digest("select_features"),
    script:
        "../workflow_scripts/select_features.py"
