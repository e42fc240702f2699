"""What dictionaries are trained and scored on."""

from types import SimpleNamespace

from vlmdiff.config.sources import is_local
from vlmdiff.dictionaries.source import files_read
from vlmdiff.runtime.seeds import derive_seed

DICTIONARY = f"{RESULTS}/dictionaries/{{dictionary}}/seed_{{seed}}"


def initial_weights(wildcards):
    """Return the weights that a dictionary starts from at its layer; none for a random start."""
    initial = CFG.dictionaries[wildcards.dictionary].initial
    return [] if initial == "random" else dictionary_file(initial, wildcards.seed, wildcards.layer)


def input_scale_file(wildcards):
    """Return where the input scale stands that was estimated for a training; none if its initial weights tell it."""
    root = CFG.scale_root(wildcards.dictionary)
    if root is None or CFG.scale_stage(root) is None:
        return []
    return f"{RESULTS}/dictionaries/{root}/input_scale/layer_{wildcards.layer}.json"


def of_scale_stage(function):
    """Return a function of the dictionary on whose tokens an input scale is estimated."""

    def asked(wildcards):
        stage = CFG.scale_stage(wildcards.dictionary)
        return function(SimpleNamespace(dictionary=stage, layer=wildcards.layer, root=wildcards.dictionary))

    return asked


def architecture_params(wildcards):
    """Return a dictionary's architecture, with the default for what its training does not read."""
    shape, unread = CFG.shape(wildcards.dictionary), set()
    if shape.kind == "topk":
        unread |= {"bandwidth", "l0_coefficient"}
    if CFG.dictionaries[wildcards.dictionary].initial != "random":
        # A warm start keeps what it starts from.
        unread.add("subtract_decoder_bias")
    return shape.params() | {name: type(shape).model_fields[name].default for name in unread}


def training_resources():
    """Return the resources of a training: one GPU, if any, and one task of Slurm for each of its processes."""
    chosen = rule_resources("train_dictionary", mem_mb=2000, runtime=60)
    if "gpu" in chosen:
        chosen["gpu"] = (
            lambda wildcards, each=chosen["gpu"]: each * CFG.dictionaries[wildcards.dictionary].processes
        )
    if any(stage.nodes > 1 for stage in CFG.trained().values()):
        chosen["nodes"] = lambda wildcards: CFG.dictionaries[wildcards.dictionary].nodes
        chosen["tasks"] = lambda wildcards: CFG.dictionaries[wildcards.dictionary].processes
        chosen["tasks_per_gpu"] = 1
    return chosen


def scale_resources():
    """Return the resources of estimating an input scale: those of a training by one process, its time aside."""
    chosen = {
        name: value for name, value in CFG.resources.get("train_dictionary", {}).items() if name != "runtime"
    }
    return rule_resources("estimate_scale", **({"mem_mb": 2000, "runtime": 30} | chosen))


def all_initial_weights(wildcards):
    """Return the weights that a dictionary starts from at every layer; none for a random start."""
    initial = CFG.dictionaries[wildcards.dictionary].initial
    return [] if initial == "random" else dictionary_files(initial, wildcards.seed)


def published_files(wildcards):
    """Return for each layer the path of a published dictionary's folder or file in its source."""
    return {layer: CFG.dictionaries[wildcards.dictionary].path(layer) for layer in LAYERS}


def published_content(wildcards):
    """Return the files that the import of a dictionary reads from a local source; none for other sources."""
    entry = CFG.dictionaries[wildcards.dictionary]
    if not is_local(entry.source):
        return []
    files = files_read(entry.format, f"{entry.source}/{entry.path(int(wildcards.layer))}")
    return with_targets(file for file in files if file.is_file())


def declared_initial(wildcards):
    """Return the weights of the dictionary whose feature indices an imported one keeps; none if of none."""
    initial = CFG.dictionaries[wildcards.dictionary].initial
    return [] if initial == "random" else dictionary_file(initial, 0, wildcards.layer)


def snapshot_folders(wildcards):
    """Return the folders of snapshots from a dictionary's training; none for an imported one."""
    if is_published(wildcards.dictionary):
        return []
    return [
        folder_beside(file) for file in dictionary_files(wildcards.dictionary, wildcards.seed, "snapshots")
    ]


def training_shards(wildcards):
    """Return the stored activations that a dictionary is trained on; none if it is trained from the model."""
    stage = CFG.dictionaries[wildcards.dictionary]
    return [] if STREAMED else shards(stage.model, stage.dataset, wildcards.layer)


def streamed(files):
    """Return an input function: what a training straight from the model reads; nothing if it reads shards."""

    def inputs(wildcards):
        stage = CFG.dictionaries[wildcards.dictionary]
        return files(stage) if STREAMED else []

    return inputs


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


def evaluation_shards(wildcards):
    """Return the shards of all held-out sets that list a dictionary, each once."""
    paths = (path for one in evaluation_sets(wildcards) for files in one["shards"].values() for path in files)
    return list(dict.fromkeys(paths))
