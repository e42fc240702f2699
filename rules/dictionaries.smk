"""Dictionaries: trained or taken from others, then scored at all layers on held-out activations."""

from functools import partial

from vlmdiff.config.cases import trained_shape
from vlmdiff.config.local_files import with_targets
from vlmdiff.config.sources import is_local
from vlmdiff.config.together import ANY, jobs_by_layers, passed_together, trained_together
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


def training_shards(layers, wildcards):
    """Return the stored activations that a training reads; none if it reads straight from the model."""
    stage, name = training(wildcards), wildcards.dictionary
    if is_streamed(wildcards):
        return []
    by_layer = FILES.read_by(name, stage.model, stage.dataset)
    return once(by_layer[layer] for layer in taken(layers, wildcards))


def training_data(layers):
    """Return what a training at some layers reads: stored activations, or a model and what it is shown."""
    return {
        "shards": partial(training_shards, layers),
        "samples": streamed(lambda stage: FILES.samples(stage.dataset)),
        "model": streamed(lambda stage: FILES.model(stage.model)),
        "model_weights": streamed(lambda stage: FILES.weights(stage.model)),
    }


def initial_weights(layers, wildcards):
    """Return the weights that a dictionary starts from at some layers; none for a random start."""
    initial = CFG.dictionaries[wildcards.dictionary].initial
    if initial == "random":
        return []
    # An imported dictionary has no seed of its own.
    seed = wildcards.get("seed", 0)
    return [FILES.dictionary(initial, seed, layer) for layer in taken(layers, wildcards)]


def input_scale_files(layers, wildcards):
    """Return where input scales stand that were estimated for a training; none if its initial weights tell them."""
    root = CFG.scale_root(wildcards.dictionary)
    if root is None or CFG.scale_stage(root) is None:
        return []
    folder = results(f"dictionaries/{root}/input_scale")
    return [f"{folder}/layer_{layer}.json" for layer in taken(layers, wildcards)]


def layer_seeds(layers, wildcards):
    """Return the seed of a dictionary at each of some layers."""
    named = ("train_dictionary", wildcards.dictionary, wildcards.seed)
    return [derive_seed(CFG.seed, *named, str(layer)) for layer in taken(layers, wildcards)]


def order_seeds(layers, wildcards):
    """Return by which seed a training draws the tokens of each layer; those that share a stream draw in one order."""
    if not is_streamed(wildcards):
        return layer_seeds(layers, wildcards)
    return [derive_seed(CFG.seed, "train_dictionary", wildcards.dictionary, wildcards.seed)] * len(layers)


def scale_seeds(layers, wildcards):
    """Return by which seed the tokens are drawn on which each layer's input scale is estimated."""
    named = ("estimate_scale", wildcards.dictionary)
    alike = is_streamed(wildcards)
    return [
        derive_seed(CFG.seed, *named, *([] if alike else [str(layer)])) for layer in taken(layers, wildcards)
    ]


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


for suffix, layers, names in jobs_by_layers(CFG, CFG.trained(), trained_together):

    rule:
        """Train a dictionary at some layers, from random starts or from another dictionary."""
        name:
            f"train_dictionary{suffix}"
        input:
            **training_data(layers),
            initial=partial(initial_weights, layers),
            scale=partial(input_scale_files, layers),
        output:
            weights=of_layers(f"{DICTIONARY}/layer_{{}}/sae_weights.safetensors", layers),
            config=of_layers(f"{DICTIONARY}/layer_{{}}/cfg.json", layers),
            training=of_layers(f"{DICTIONARY}/layer_{{}}/training.csv", layers),
            snapshots=[directory(one) for one in of_layers(f"{DICTIONARY}/layer_{{}}/snapshots", layers)],
        log:
            job_of_layers("logs", "train_dictionary/{dictionary}/seed_{seed}", layers),
        benchmark:
            job_of_layers("benchmarks", "train_dictionary/{dictionary}/seed_{seed}", layers)
        wildcard_constraints:
            dictionary=one_of(names),
        threads: CFG.threads
        params:
            layers=partial(taken, layers),
            seed=partial(layer_seeds, layers),
            order=partial(order_seeds, layers),
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
            checkpoints=results("checkpoints/dictionaries/{dictionary}/seed_{seed}"),
            kept=results("finished/dictionaries/{dictionary}/seed_{seed}"),
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
        initial=partial(initial_weights, ANY),
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


for suffix, layers, names in jobs_by_layers(CFG, CFG.published(), passed_together):

    rule:
        """Estimate the factor by which an imported dictionary's inputs are scaled, where its source does not tell."""
        name:
            f"estimate_scale{suffix}"
        input:
            **training_data(layers),
        output:
            scale=of_layers(results("dictionaries/{dictionary}/input_scale/layer_{}.json"), layers),
        log:
            job_of_layers("logs", "estimate_scale/{dictionary}", layers),
        benchmark:
            job_of_layers("benchmarks", "estimate_scale/{dictionary}", layers)
        wildcard_constraints:
            dictionary=one_of(names),
        threads: CFG.threads
        params:
            layers=partial(taken, layers),
            seed=partial(scale_seeds, layers),
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
        initial=partial(initial_weights, LAYERS),
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
