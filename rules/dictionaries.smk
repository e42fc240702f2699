# Dictionaries: trained at one layer each, then scored at all layers on held-out activations.

from vlmdiff.runtime.seeds import derive_seed

DICTIONARY = f"{RESULTS}/dictionaries/{{dictionary}}/seed_{{seed}}"


def initial_weights(wildcards):
    """Return the weights that a dictionary starts from at its layer; none for a random start."""
    initial = CFG.dictionaries[wildcards.dictionary].initial
    folder = f"{RESULTS}/dictionaries/{initial}/seed_{wildcards.seed}/layer_{wildcards.layer}"
    return [] if initial == "random" else f"{folder}/sae_weights.safetensors"


def all_initial_weights(wildcards):
    """Return the weights that a dictionary starts from at every layer; none for a random start."""
    initial = CFG.dictionaries[wildcards.dictionary].initial
    return [] if initial == "random" else dictionary_files(initial, wildcards.seed)


def training_shards(wildcards):
    """Return the activations that a dictionary is trained on."""
    stage = CFG.dictionaries[wildcards.dictionary]
    return shards(stage.model, stage.dataset)


def evaluation_sets(wildcards):
    """Return the held-out sets that list a dictionary, with their shards."""
    return [
        {"model": entry.model, "dataset": entry.dataset, "shards": shards(entry.model, entry.dataset)}
        for entry in CFG.evaluation
        if wildcards.dictionary in entry.dictionaries
    ]


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
        mem_mb=2000,
        runtime=60,
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
        f"{DICTIONARY}/metrics.csv",
    log:
        f"{RESULTS}/logs/evaluate_dictionary/{{dictionary}}/seed_{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate_dictionary/{{dictionary}}/seed_{{seed}}.tsv"
    conda:
        "../envs/vlmdiff.yaml"
    threads: CFG.threads
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        layers=LAYERS,
        snapshots=lambda wildcards: CFG.dictionaries[wildcards.dictionary].snapshots,
        sets=evaluation_sets,
        code=code_digest("evaluate_dictionary"),
    script:
        "../workflow_scripts/evaluate_dictionary.py"
