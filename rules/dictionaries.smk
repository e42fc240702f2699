"""Dictionaries: trained at one layer each or taken from others, then scored at all layers on held-out activations."""

from types import SimpleNamespace

from vlmdiff.config.cases import trained_shape
from vlmdiff.config.sources import is_local
from vlmdiff.dictionaries.source import files_read
from vlmdiff.runtime.seeds import derive_seed

DICTIONARY = results("dictionaries/{dictionary}/seed_{seed}")


def dictionary_file(dictionary, seed, layer, name="sae_weights.safetensors"):
    """Return one file of a dictionary at one layer; a published one is the same for all seeds."""
    seed = 0 if dictionary in CFG.published() else seed
    return results(f"dictionaries/{dictionary}/seed_{seed}/layer_{layer}/{name}")


def dictionary_files(dictionary, seed, name="sae_weights.safetensors"):
    """Return one file of a dictionary for every layer."""
    return [dictionary_file(dictionary, seed, layer, name) for layer in LAYERS]


def streamed(files):
    """Return an input function: what a training straight from the model reads; nothing if it reads shards."""
    return lambda wildcards: files(CFG.dictionaries[wildcards.dictionary]) if STREAMED else []


# What a training reads: stored activations, or a model and what it is shown.
TRAINING_DATA = {
    "shards": lambda wildcards: (
        [] if STREAMED else shards(*facts(wildcards.dictionary, "model", "dataset").values(), wildcards.layer)
    ),
    "samples": streamed(lambda stage: samples_file(stage.dataset)),
    "model": streamed(lambda stage: config_file(stage.model)),
    "model_weights": streamed(lambda stage: weight_files(stage.model)),
}


def initial_weights(wildcards):
    """Return the weights that a dictionary starts from, at its layer or at all; none for a random start."""
    initial = CFG.dictionaries[wildcards.dictionary].initial
    if initial == "random":
        return []
    # An imported dictionary has no seed of its own.
    seed = wildcards.get("seed", 0)
    if "layer" not in wildcards.keys():
        return dictionary_files(initial, seed)
    return dictionary_file(initial, seed, wildcards.layer)


def input_scale_file(wildcards):
    """Return where the input scale stands that was estimated for a training; none if its initial weights tell it."""
    root = CFG.scale_root(wildcards.dictionary)
    if root is None or CFG.scale_stage(root) is None:
        return []
    return results(f"dictionaries/{root}/input_scale/layer_{wildcards.layer}.json")


def training_resources():
    """Return the resources of a training: one GPU, if any, and one task of Slurm for each of its processes."""
    chosen = rule_resources("train_dictionary", mem_mb=2000, runtime=60)
    if "gpu" in chosen:
        each = chosen["gpu"]
        chosen["gpu"] = lambda wildcards: each * CFG.dictionaries[wildcards.dictionary].processes
    if any(stage.nodes > 1 for stage in CFG.trained().values()):
        chosen["nodes"] = lambda wildcards: CFG.dictionaries[wildcards.dictionary].nodes
        chosen["tasks"] = lambda wildcards: CFG.dictionaries[wildcards.dictionary].processes
        chosen["tasks_per_gpu"] = 1
    return chosen


def facts(dictionary, *keys):
    """Return some of what the configuration says of a dictionary."""
    return {key: getattr(CFG.dictionaries[dictionary], key) for key in keys}


def stream_settings(wildcards):
    """Return how a training's model is shown its data, or None if it reads shards."""
    if not STREAMED:
        return None
    stage = CFG.dictionaries[wildcards.dictionary]
    return {
        "name": stage.model,
        "subject": subject_params(stage.model),
        "samples": CFG.dataset(stage.dataset).samples,
        "fewer": fewer_samples(stage.dataset),
        "storage": CFG.extraction.storage,
        "batch_tokens": CFG.extraction.batch_tokens,
        "massive_ratio": CFG.extraction.massive_ratio,
    }


rule train_dictionary:
    """Train a dictionary at one layer, from a random start or from another dictionary."""
    input:
        **TRAINING_DATA,
        initial=initial_weights,
        scale=input_scale_file,
    output:
        weights=f"{DICTIONARY}/layer_{{layer}}/sae_weights.safetensors",
        config=f"{DICTIONARY}/layer_{{layer}}/cfg.json",
        training=f"{DICTIONARY}/layer_{{layer}}/training.csv",
        snapshots=directory(f"{DICTIONARY}/layer_{{layer}}/snapshots"),
    wildcard_constraints:
        dictionary=one_of(CFG.trained()),
    threads: CFG.threads
    resources:
        **training_resources(),
    params:
        seed=lambda wildcards: derive_seed(
            CFG.seed, "train_dictionary", wildcards.dictionary, wildcards.seed, wildcards.layer
        ),
        architecture=lambda wildcards: trained_shape(CFG, wildcards.dictionary),
        stage=lambda wildcards: CFG.dictionaries[wildcards.dictionary].params(
            "initial", "model", "dataset", "architecture"
        ),
        provenance=lambda wildcards: {
            "dictionary": wildcards.dictionary,
            **facts(wildcards.dictionary, "initial", "model", "dataset"),
        },
        stream=stream_settings,
        # Outside of the declared outputs, which Snakemake clears when a job fails.
        checkpoints=results("checkpoints/dictionaries/{dictionary}/seed_{seed}/layer_{layer}"),
    script:
        "../workflow_scripts/train_dictionary.py"


rule fetch_dictionary:
    """Fetch a published dictionary from where it is kept, which cluster nodes may not reach."""
    output:
        sources=results("dictionaries/{dictionary}/sources.json"),
    wildcard_constraints:
        dictionary=one_of(CFG.published()),
    priority: 50
    localrule: True
    resources:
        **rule_resources("fetch_dictionary", mem_mb=1000, runtime=240),
    params:
        source=lambda wildcards: CFG.dictionaries[wildcards.dictionary].source,
        format=lambda wildcards: CFG.dictionaries[wildcards.dictionary].format,
        # Of each layer the folder or file.
        files=lambda wildcards: {
            layer: CFG.dictionaries[wildcards.dictionary].path(layer) for layer in LAYERS
        },
    script:
        "../workflow_scripts/fetch_dictionary.py"


def published_content(wildcards):
    """Return the files that the import of a dictionary reads from a local source; none for other sources."""
    entry = CFG.dictionaries[wildcards.dictionary]
    if not is_local(entry.source):
        return []
    files = files_read(entry.format, f"{entry.source}/{entry.path(int(wildcards.layer))}")
    return with_targets(file for file in files if file.is_file())


rule import_dictionary:
    """Read a published dictionary's layer as one of ours; early, as what does not fit is refused here."""
    input:
        sources=results("dictionaries/{dictionary}/sources.json"),
        content=published_content,
        # The dictionary whose feature indices it keeps.
        initial=initial_weights,
        model=config_file(CFG.diff.model),
    output:
        weights=results("dictionaries/{dictionary}/seed_0/layer_{layer}/sae_weights.safetensors"),
        config=results("dictionaries/{dictionary}/seed_0/layer_{layer}/cfg.json"),
    wildcard_constraints:
        dictionary=one_of(CFG.published()),
    priority: 50
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
            **facts(wildcards.dictionary, "initial"),
        },
    script:
        "../workflow_scripts/import_dictionary.py"


def of_scale_stage(function):
    """Return a function of the dictionary on whose tokens an input scale is estimated."""

    def asked(wildcards):
        stage = CFG.scale_stage(wildcards.dictionary)
        return function(SimpleNamespace(dictionary=stage, layer=wildcards.layer, root=wildcards.dictionary))

    return asked


def scale_resources():
    """Return the resources of estimating an input scale: those of a training by one process, its time aside."""
    training = CFG.resources.get("train_dictionary", {})
    chosen = {name: value for name, value in training.items() if name != "runtime"}
    return rule_resources("estimate_scale", **({"mem_mb": 2000, "runtime": 30} | chosen))


rule estimate_scale:
    """Estimate the factor by which an imported dictionary's inputs are scaled, where its source does not tell."""
    input:
        **{name: of_scale_stage(files) for name, files in TRAINING_DATA.items()},
    output:
        scale=results("dictionaries/{dictionary}/input_scale/layer_{layer}.json"),
    wildcard_constraints:
        dictionary=one_of(CFG.published()),
    threads: CFG.threads
    resources:
        **scale_resources(),
    params:
        seed=lambda wildcards: derive_seed(CFG.seed, "estimate_scale", wildcards.dictionary, wildcards.layer),
        tokens=of_scale_stage(lambda stage: CFG.dictionaries[stage.dictionary].tokens),
        facts=of_scale_stage(
            lambda stage: facts(stage.root, "scale_on") | facts(stage.dictionary, "model", "dataset")
        ),
        stream=of_scale_stage(stream_settings),
    script:
        "../workflow_scripts/estimate_scale.py"


def evaluation_sets(wildcards):
    """Return the held-out sets that list a dictionary, with their shards."""
    return [
        {
            "model": entry.model,
            "dataset": entry.dataset,
            "tokens": entry.tokens,
            "shards": {layer: shards(entry.model, entry.dataset, layer) for layer in LAYERS},
        }
        for entry in CFG.evaluation
        if wildcards.dictionary in entry.dictionaries
    ]


rule evaluate_dictionary:
    """Score a dictionary and its snapshots at all layers on held-out activations."""
    input:
        weights=lambda wildcards: dictionary_files(wildcards.dictionary, wildcards.seed),
        # Of a training here.
        snapshots=lambda wildcards: [
            folder_beside(file)
            for file in dictionary_files(wildcards.dictionary, wildcards.seed, "snapshots")
            if wildcards.dictionary in CFG.trained()
        ],
        initial=initial_weights,
        shards=lambda wildcards: once(
            files for one in evaluation_sets(wildcards) for files in one["shards"].values()
        ),
    output:
        shown(
            "dictionaries/{dictionary}/seed_{seed}/metrics.csv",
            "Dictionaries",
            "dictionary_metrics",
            table="Metrics",
        ),
    threads: CFG.threads
    resources:
        **rule_resources("evaluate_dictionary", mem_mb=2000, runtime=30),
    params:
        layers=LAYERS,
        snapshots=lambda wildcards: CFG.dictionaries[wildcards.dictionary].snapshots,
        sets=evaluation_sets,
    script:
        "../workflow_scripts/evaluate_dictionary.py"
