# Dictionaries: trained at one layer each or taken from others, then scored at all layers on held-out activations.


rule train_dictionary:
    input:
        shards=training_shards,
        samples=streamed(lambda stage: samples_file(stage.dataset)),
        model=streamed(lambda stage: f"{model_path(stage.model)}/config.json"),
        model_weights=streamed(lambda stage: weight_files(stage.model)),
        initial=initial_weights,
        scale=input_scale_file,
    output:
        weights=f"{DICTIONARY}/layer_{{layer}}/sae_weights.safetensors",
        config=f"{DICTIONARY}/layer_{{layer}}/cfg.json",
        training=f"{DICTIONARY}/layer_{{layer}}/training.csv",
        snapshots=directory(f"{DICTIONARY}/layer_{{layer}}/snapshots"),
    log:
        f"{RESULTS}/logs/train_dictionary/{{dictionary}}/seed_{{seed}}/layer_{{layer}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_dictionary/{{dictionary}}/seed_{{seed}}/layer_{{layer}}.tsv"
    wildcard_constraints:
        dictionary=one_of(CFG.trained()),
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        **training_resources(),
    params:
        seed=lambda wildcards: derive_seed(
            CFG.seed, "train_dictionary", wildcards.dictionary, wildcards.seed, wildcards.layer
        ),
        architecture=architecture_params,
        stage=lambda wildcards: CFG.dictionaries[wildcards.dictionary].params(
            "initial", "model", "dataset", "architecture"
        ),
        provenance=lambda wildcards: {
            "dictionary": wildcards.dictionary,
            **{
                key: getattr(CFG.dictionaries[wildcards.dictionary], key)
                for key in ("initial", "model", "dataset")
            },
        },
        stream=stream_settings,
        # Outside of the declared outputs, which Snakemake clears when a job fails.
        checkpoints=f"{RESULTS}/checkpoints/dictionaries/{{dictionary}}/seed_{{seed}}/layer_{{layer}}",
        code=code_digest("train_dictionary"),
    script:
        "../workflow_scripts/train_dictionary.py"


# It needs the network, which the nodes of a cluster may lack.
rule fetch_dictionary:
    output:
        sources=f"{RESULTS}/dictionaries/{{dictionary}}/sources.json",
    log:
        f"{RESULTS}/logs/fetch_dictionary/{{dictionary}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/fetch_dictionary/{{dictionary}}.tsv"
    wildcard_constraints:
        dictionary=one_of(CFG.published()),
    priority: 50
    localrule: True
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("fetch_dictionary", mem_mb=1000, runtime=240),
    params:
        source=lambda wildcards: CFG.dictionaries[wildcards.dictionary].source,
        format=lambda wildcards: CFG.dictionaries[wildcards.dictionary].format,
        files=published_files,
        code=code_digest("fetch_dictionary"),
    script:
        "../workflow_scripts/fetch_dictionary.py"


rule import_dictionary:
    input:
        sources=f"{RESULTS}/dictionaries/{{dictionary}}/sources.json",
        content=published_content,
        initial=declared_initial,
        model=f"{model_path(CFG.diff.model)}/config.json",
    output:
        weights=f"{RESULTS}/dictionaries/{{dictionary}}/seed_0/layer_{{layer}}/sae_weights.safetensors",
        config=f"{RESULTS}/dictionaries/{{dictionary}}/seed_0/layer_{{layer}}/cfg.json",
    log:
        f"{RESULTS}/logs/import_dictionary/{{dictionary}}/layer_{{layer}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/import_dictionary/{{dictionary}}/layer_{{layer}}.tsv"
    wildcard_constraints:
        dictionary=one_of(CFG.published()),
    # What does not fit is refused before long work.
    priority: 50
    conda:
        "../envs/vlmdiff.yaml"
    threads: 1
    resources:
        **rule_resources("import_dictionary", mem_mb=4000, runtime=15),
    params:
        format=lambda wildcards: CFG.dictionaries[wildcards.dictionary].format,
        options=lambda wildcards: CFG.dictionaries[wildcards.dictionary].options(int(wildcards.layer)),
        d_sae=CFG.architecture.d_sae,
        # For a warning: it changes no result.
        models=not_compared(lambda _: [model.path for model in CFG.models.values()]),
        # For a check: it changes no result either.
        needs_scale=not_compared(lambda wildcards: CFG.needs_told_scale(wildcards.dictionary)),
        facts=lambda wildcards: {
            "dictionary": wildcards.dictionary,
            "initial": CFG.dictionaries[wildcards.dictionary].initial,
        },
        code=code_digest("import_dictionary"),
    script:
        "../workflow_scripts/import_dictionary.py"


rule estimate_scale:
    input:
        shards=of_scale_stage(training_shards),
        samples=of_scale_stage(streamed(lambda stage: samples_file(stage.dataset))),
        model=of_scale_stage(streamed(lambda stage: f"{model_path(stage.model)}/config.json")),
        model_weights=of_scale_stage(streamed(lambda stage: weight_files(stage.model))),
    output:
        scale=f"{RESULTS}/dictionaries/{{dictionary}}/input_scale/layer_{{layer}}.json",
    log:
        f"{RESULTS}/logs/estimate_scale/{{dictionary}}/layer_{{layer}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/estimate_scale/{{dictionary}}/layer_{{layer}}.tsv"
    wildcard_constraints:
        dictionary=one_of(CFG.published()),
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        **scale_resources(),
    params:
        seed=lambda wildcards: derive_seed(CFG.seed, "estimate_scale", wildcards.dictionary, wildcards.layer),
        tokens=of_scale_stage(lambda stage: CFG.dictionaries[stage.dictionary].tokens),
        facts=of_scale_stage(
            lambda stage: {
                "scale_on": CFG.dictionaries[stage.root].scale_on,
                **{key: getattr(CFG.dictionaries[stage.dictionary], key) for key in ("model", "dataset")},
            }
        ),
        stream=of_scale_stage(stream_settings),
        code=code_digest("estimate_scale"),
    script:
        "../workflow_scripts/estimate_scale.py"


rule evaluate_dictionary:
    input:
        weights=lambda wildcards: dictionary_files(wildcards.dictionary, wildcards.seed),
        snapshots=snapshot_folders,
        initial=all_initial_weights,
        shards=evaluation_shards,
    output:
        report(
            f"{DICTIONARY}/metrics.csv",
            caption="captions/dictionary_metrics.rst",
            category="Dictionaries",
            labels={"table": "Metrics", "dictionary": "{dictionary}", "seed": "{seed}"},
        ),
    log:
        f"{RESULTS}/logs/evaluate_dictionary/{{dictionary}}/seed_{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate_dictionary/{{dictionary}}/seed_{{seed}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        **rule_resources("evaluate_dictionary", mem_mb=2000, runtime=30),
    params:
        layers=LAYERS,
        snapshots=lambda wildcards: CFG.dictionaries[wildcards.dictionary].snapshots,
        sets=evaluation_sets,
        code=code_digest("evaluate_dictionary"),
    script:
        "../workflow_scripts/evaluate_dictionary.py"
