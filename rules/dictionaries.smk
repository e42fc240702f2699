# Dictionaries: trained at one layer each, then scored at all layers on held-out activations.


rule train_dictionary:
    input:
        shards=training_shards,
        initial=initial_weights,
    output:
        weights=f"{DICTIONARY}/layer_{{layer}}/sae_weights.safetensors",
        config=f"{DICTIONARY}/layer_{{layer}}/cfg.json",
        training=f"{DICTIONARY}/layer_{{layer}}/training.csv",
        snapshots=directory(f"{DICTIONARY}/layer_{{layer}}/snapshots"),
    log:
        f"{RESULTS}/logs/train_dictionary/{{dictionary}}/seed_{{seed}}/layer_{{layer}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_dictionary/{{dictionary}}/seed_{{seed}}/layer_{{layer}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        **rule_resources("train_dictionary", mem_mb=2000, runtime=60),
    params:
        seed=lambda wildcards: derive_seed(
            CFG.seed, "train_dictionary", wildcards.dictionary, wildcards.seed, wildcards.layer
        ),
        architecture=CFG.architecture.params(),
        stage=lambda wildcards: CFG.dictionaries[wildcards.dictionary].params("initial", "model", "dataset"),
        provenance=lambda wildcards: {
            "dictionary": wildcards.dictionary,
            **{
                key: getattr(CFG.dictionaries[wildcards.dictionary], key)
                for key in ("initial", "model", "dataset")
            },
        },
        # Outside of the declared outputs, which Snakemake clears when a job fails.
        checkpoints=f"{RESULTS}/checkpoints/dictionaries/{{dictionary}}/seed_{{seed}}/layer_{{layer}}",
        code=code_digest("train_dictionary"),
    script:
        "../workflow_scripts/train_dictionary.py"


rule evaluate_dictionary:
    input:
        weights=lambda wildcards: dictionary_files(wildcards.dictionary, wildcards.seed),
        snapshots=lambda wildcards: dictionary_files(wildcards.dictionary, wildcards.seed, "snapshots"),
        initial=all_initial_weights,
        shards=lambda wildcards: [path for entry in evaluation_sets(wildcards) for path in entry["shards"]],
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
