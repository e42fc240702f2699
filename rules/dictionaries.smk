"""Dictionaries: trained at one layer each or taken from others, then scored at all layers on held-out activations."""

from vlmdiff.config.cases import trained_shape
from vlmdiff.config.local_files import with_targets
from vlmdiff.config.sources import is_local
from vlmdiff.dictionaries.source import files_read
from vlmdiff.runtime.seeds import derive_seed

DICTIONARY = results("dictionaries/{dictionary}/seed_{seed}")


def training(wildcards):
    """Return a dictionary's training, or of an imported one that on whose tokens its input scale is estimated."""
    name = wildcards.dictionary
    return CFG.trained()[name if name in CFG.trained() else CFG.scale_stage(name)]


def is_streamed(wildcards):
    """Tell whether a training reads straight from the model; a crosscoder pairs what is stored of two models."""
    return STREAMED and training(wildcards).base_model is None


def streamed(files):
    """Return an input function: what a training straight from the model reads; nothing if it reads shards."""
    return lambda wildcards: files(training(wildcards)) if is_streamed(wildcards) else []


def training_shards(wildcards):
    """Return the stored activations that a training reads; none if it reads straight from the model."""
    stage, name = training(wildcards), wildcards.dictionary
    if is_streamed(wildcards):
        return []
    return FILES.read_by(name, stage.model, stage.dataset)[int(wildcards.layer)]


# What a training reads: stored activations, or a model and what it is shown.
TRAINING_DATA = {
    "shards": training_shards,
    "samples": streamed(lambda stage: FILES.samples(stage.dataset)),
    "model": streamed(lambda stage: FILES.model(stage.model)),
    "model_weights": streamed(lambda stage: FILES.weights(stage.model)),
}


def initial_weights(wildcards):
    """Return the weights that a dictionary starts from, at its layer or at all; none for a random start."""
    initial = CFG.dictionaries[wildcards.dictionary].initial
    if initial == "random":
        return []
    # An imported dictionary has no seed of its own.
    seed = wildcards.get("seed", 0)
    if "layer" not in wildcards.keys():
        return FILES.dictionaries(initial, seed)
    return FILES.dictionary(initial, seed, wildcards.layer)


def input_scale_file(wildcards):
    """Return where the input scale stands that was estimated for a training; none if its initial weights tell it."""
    root = CFG.scale_root(wildcards.dictionary)
    if root is None or CFG.scale_stage(root) is None:
        return []
    return results(f"dictionaries/{root}/input_scale/layer_{wildcards.layer}.json")


def stream_settings(wildcards):
    """Return how a training's model is shown its data, or None if it reads shards."""
    stage = training(wildcards)
    told = {
        "name": stage.model,
        "subject": FILES.subject(stage.model),
        "samples": CFG.dataset(stage.dataset).samples,
        "fewer": may_have_fewer(stage.dataset, CFG.all_datasets()),
        **facts(CFG.extraction, "storage", "batch_tokens", "massive_ratio"),
    }
    return told if is_streamed(wildcards) else None


def of_two_models(wildcards):
    """Return of a crosscoder the model before tuning; nothing of other dictionaries."""
    entry = CFG.dictionaries[wildcards.dictionary]
    return facts(entry, "base_model") if entry.base_model else {}


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
    params:
        seed=lambda wildcards: derive_seed(
            CFG.seed, "train_dictionary", wildcards.dictionary, wildcards.seed, wildcards.layer
        ),
        architecture=lambda wildcards: trained_shape(CFG, wildcards.dictionary),
        stage=lambda wildcards: training(wildcards).params(
            "initial", "model", "base_model", "dataset", "architecture"
        ),
        provenance=lambda wildcards: {
            "dictionary": wildcards.dictionary,
            **facts(training(wildcards), "initial", "model", "dataset"),
            **of_two_models(wildcards),
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
        model=FILES.model(CFG.diff.model),
    output:
        weights=results("dictionaries/{dictionary}/seed_0/layer_{layer}/sae_weights.safetensors"),
        config=results("dictionaries/{dictionary}/seed_0/layer_{layer}/cfg.json"),
    wildcard_constraints:
        dictionary=one_of(CFG.published()),
    priority: 50
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
            **facts(CFG.dictionaries[wildcards.dictionary], "initial"),
            **of_two_models(wildcards),
        },
    script:
        "../workflow_scripts/import_dictionary.py"


rule estimate_scale:
    """Estimate the factor by which an imported dictionary's inputs are scaled, where its source does not tell."""
    input:
        **TRAINING_DATA,
    output:
        scale=results("dictionaries/{dictionary}/input_scale/layer_{layer}.json"),
    wildcard_constraints:
        dictionary=one_of(CFG.published()),
    threads: CFG.threads
    params:
        seed=lambda wildcards: derive_seed(CFG.seed, "estimate_scale", wildcards.dictionary, wildcards.layer),
        tokens=lambda wildcards: training(wildcards).tokens,
        facts=lambda wildcards: {
            **facts(CFG.dictionaries[wildcards.dictionary], "scale_on"),
            **facts(training(wildcards), "model", "dataset"),
        },
        stream=stream_settings,
    script:
        "../workflow_scripts/estimate_scale.py"


rule evaluate_dictionary:
    """Score a dictionary and its snapshots at all layers on held-out activations."""
    input:
        weights=lambda wildcards: FILES.dictionaries(wildcards.dictionary, wildcards.seed),
        # Of a training here.
        snapshots=lambda wildcards: [
            folder_beside(file)
            for file in FILES.dictionaries(wildcards.dictionary, wildcards.seed, "snapshots")
            if wildcards.dictionary in CFG.trained()
        ],
        initial=initial_weights,
        shards=lambda wildcards: once(
            files for one in FILES.evaluation_sets(wildcards.dictionary) for files in one["shards"].values()
        ),
    output:
        shown("dictionaries/{dictionary}/seed_{seed}/metrics.csv", "Dictionaries", "Metrics"),
    threads: CFG.threads
    params:
        layers=LAYERS,
        snapshots=lambda wildcards: CFG.dictionaries[wildcards.dictionary].snapshots,
        sets=lambda wildcards: FILES.evaluation_sets(wildcards.dictionary),
    script:
        "../workflow_scripts/evaluate_dictionary.py"
