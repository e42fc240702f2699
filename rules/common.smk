"""What all rule files share - the checked configuration, paths, wildcards, code digests."""

import os
import sys
import time
from math import ceil
from pathlib import Path

# Texts are UTF-8, whatever the user's locale.
os.environ.update(PYTHONUTF8="1")
# Idle OpenMP threads must sleep, not spin: two spinning jobs on two cores run at a third of their speed.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Jobs keep freed memory for their next tensors instead of handing every one of them back to the system.
for setting in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
    os.environ.setdefault(setting, str(2**30))

from snakemake.io import get_wildcard_names
from vlmdiff.config.comparisons import MAIN
from vlmdiff.config.datasets import is_prepared
from vlmdiff.config.layers import read_layers
from vlmdiff.config.load import ConfigError, load_config
from vlmdiff.config.local_files import BESIDE_WEIGHTS, WEIGHTS, files_of
from vlmdiff.config.places import shipped
from vlmdiff.config.samples_file import data_folder
from vlmdiff.config.sources import is_hub, is_literal, world_model
from vlmdiff.runtime.digest import script_digest
from vlmdiff.runtime.failures import failure_summary
from vlmdiff.runtime.job import TOLD_AT_THE_END

# Snakemake writes the interpreter's path into a command as it is.
if any(mark in sys.executable for mark in " '\"$&;()<>|*?\t"):
    raise WorkflowError(
        f"The Python of this environment is {sys.executable!r}, and Snakemake cannot start scripts with blanks or quotes "
        "in that path. Make the environment in another folder (`python3 -m venv ~/vlmdiff-env`, then its `pip install -r "
        "envs/requirements.txt`) and run its `snakemake` here; the folder of the workflow itself may be called anything"
    )

# As a module with a `config` of its own, the workflow takes that; else the files and the command line tell it.
OWN = not workflow.modifier.skip_configfile
try:
    LAYERS_OF_CONFIG = read_layers(
        config,
        workflow.configfiles if OWN else (),
        workflow.config_settings.config_args if OWN else (),
        home=ROOT / "config",
    )
    named = Path(workflow.configfiles[-1]).stem if OWN and workflow.configfiles else None
    CFG = load_config(LAYERS_OF_CONFIG.values, LAYERS_OF_CONFIG.where, named)
except ConfigError as error:
    raise WorkflowError(str(error))
# The report shows all of them.
known = {Path(file).absolute() for file in workflow.configfiles}
workflow.configfiles += [file for file in LAYERS_OF_CONFIG.files if file not in known]

STARTED = time.time()
# Of several workflows Snakemake calls the main one's `onerror` alone.
if workflow.modifier.is_main_snakefile():
    os.environ[TOLD_AT_THE_END] = "1"
RESULTS = f"results/{CFG.experiment}"
LAYERS = CFG.layers
SEEDS = range(CFG.seeds)
FIGURES = f"{RESULTS}/figures"


def results(path):
    """Return the path of a result; wildcards stand in it as Snakemake knows them."""
    return f"{RESULTS}/{path}"


def logs(path):
    """Return the log of a rule's jobs, such as `logs("evaluate_model/{model}")`."""
    return f"{RESULTS}/logs/{path}.log"


def benchmarks(path):
    """Return the benchmark of a rule's jobs, named as its log."""
    return f"{RESULTS}/benchmarks/{path}.tsv"


def shown(path, category, caption=None, wildcards=(), **labels):
    """Return a result that the report shows.

    Args:
        path: it, below the folder of results.
        category: its part of the report.
        caption: the name of its words in rules/captions/; as the file is called by default.
        wildcards: further labels, each a wildcard of the path.
        labels: what it is called there, as `table="Ranking"`.
    """
    named = {name: f"{{{name}}}" for name in wildcards}
    caption = f"captions/{caption or Path(path).stem}.rst"
    return report(results(path), caption=caption, category=category, labels=labels | named)


def figure(path, category, title, caption=None):
    """Return the files of a figure; the report shows the SVG, with the wildcards of its path as labels.

    Args:
        path: it, below the folder of figures, without its ending.
        category: its part of the report.
        title: what it is called there.
        caption: the name of its words in rules/captions/; as the file is called by default.
    """
    labels = sorted(name for name in get_wildcard_names(path) if f"{{{name}}}" != title)
    return {
        "pdf": results(f"figures/{path}.pdf"),
        "png": results(f"figures/{path}.png"),
        "svg": shown(f"figures/{path}.svg", category, caption, labels, figure=title),
    }


def one_of(names):
    """Return a wildcard constraint that matches exactly these names."""
    return "|".join(map(str, names)) or "(?!)"


wildcard_constraints:
    comparison=one_of([MAIN, *CFG.comparisons]),
    model=one_of(CFG.models),
    dataset=one_of(CFG.all_datasets()),
    dictionary=one_of(CFG.dictionaries),
    concept=one_of(CFG.concepts),
    scope="own_layer|all_layers",
    block=r"\d+",
    seed=r"\d+",
    layer=one_of(LAYERS),


def code_digest(rule_name):
    """Digest a rule's script and all library code that it reaches: a param of every rule."""
    return script_digest(SCRIPTS / f"{rule_name}.py")


def not_compared(values):
    """Return a param that changes no result: Snakemake does not compare what is computed from resources."""
    return lambda wildcards, resources: values(wildcards)


def is_world(dataset):
    """Tell whether a data set is written by the built-in world."""
    return dataset not in CFG.datasets


def folder_beside(path):
    """Ask for a folder that is written together with a file that is an input too, and stands for both.

    Of a folder Snakemake sees the time alone, which a copy changes.
    """
    return ancient(path)


def world_models_folder():
    """Where the built-in world's checkpoints lie: shipped with the code, or trained by this run."""
    return shipped("resources/world") if CFG.world.models == "shipped" else f"{RESULTS}/world/models"


def checkpoint_folder(name, source):
    """Return where the files of a source lie: in the built-in world, fetched from the hub, or where it says."""
    if is_hub(source):
        return f"{RESULTS}/models/{name}"
    model = world_model(source)
    if model is None:
        return source
    # Control models are never shipped.
    folder = f"{RESULTS}/world/models" if model in CFG.world.controls else world_models_folder()
    return f"{folder}/{model}"


def model_path(name):
    """Return the checkpoint folder of a model of the configuration."""
    return checkpoint_folder(name, CFG.models[name].path)


def vision_tower_folder(name):
    """Return the folder of a model's vision tower; None if it is part of the checkpoint."""
    source = CFG.models[name].vision_tower
    return None if source is None else checkpoint_folder(f"{name}_vision_tower", source)


def with_targets(files):
    """Return files, and for each that lies behind a symbolic link the file that is meant.

    Of a link Snakemake sees the time of what it leads to: one that leads elsewhere now may look older. Paths with
    braces, which it takes for wildcards, are left out: `check_files` refuses those that are read by such a name.
    """
    found = {str(file) for file in files}
    meant = {file: str(Path(file).resolve()) for file in found}
    linked = {target for file, target in meant.items() if target != os.path.abspath(file)}
    return sorted(filter(is_literal, found | linked))


def identity_files(folder, source):
    """Return what a checkpoint is known by, beside config.json, which other weights may have too."""
    if is_hub(source):
        return [f"{folder}/commit.json"]
    if folder.startswith(f"{RESULTS}/"):
        return [f"{folder}/model.safetensors"]
    found = files_of(folder, (*WEIGHTS, *BESIDE_WEIGHTS))
    return with_targets(file for file in found if file.name != "config.json")


def weight_files(name):
    """Return what a model's weights are known by, those that lie apart from its checkpoint too."""
    model, tower = CFG.models[name], vision_tower_folder(name)
    files = identity_files(model_path(name), model.path)
    if tower is not None:
        files += [f"{tower}/config.json", *identity_files(tower, model.vision_tower)]
    if model.untuned is not None:
        files += [f"{model_path(model.untuned)}/config.json", *weight_files(model.untuned)]
    return files


def subject_params(name):
    """Return how a model is loaded, its path aside."""
    model = CFG.models[name]
    untuned = None if model.untuned is None else model_path(model.untuned)
    return model.params("path", "planned") | {"vision_tower": vision_tower_folder(name), "untuned": untuned}


def dataset_folder(dataset):
    """Return the folder that holds a data set's samples.jsonl."""
    if is_world(dataset):
        return f"{RESULTS}/world/data/{dataset}"
    entry = CFG.datasets[dataset]
    return f"{RESULTS}/data/{dataset}" if is_prepared(entry) else data_folder(entry.path)


def samples_file(dataset):
    """Return a data set's samples.jsonl."""
    return f"{dataset_folder(dataset)}/samples.jsonl"


def blocks(dataset):
    """Return the indices of a data set's blocks of samples, each of which is one shard."""
    return range(ceil(CFG.dataset(dataset).samples / CFG.extraction.shard_samples))


def fewer_samples(dataset):
    """Tell whether a data set may have fewer samples than planned: images were left out, or it is a part."""
    entry = CFG.dataset(dataset)
    return entry.kind == "subset" or getattr(entry, "on_missing", "error") == "skip"


def is_published(dictionary):
    """Tell whether a dictionary is imported instead of trained."""
    return dictionary in CFG.published()


def dictionary_file(dictionary, seed, layer, name="sae_weights.safetensors"):
    """Return one file of a dictionary at one layer; a published one is the same for all seeds."""
    seed = 0 if is_published(dictionary) else seed
    return f"{RESULTS}/dictionaries/{dictionary}/seed_{seed}/layer_{layer}/{name}"


def dictionary_files(dictionary, seed, name="sae_weights.safetensors"):
    """Return one file of a dictionary for every layer."""
    return [dictionary_file(dictionary, seed, layer, name) for layer in LAYERS]


def growing(first):
    """Return a resource that is half of the first request larger with every retry."""
    return lambda wildcards, attempt: first * (1 + attempt) // 2


def rule_resources(rule_name, **defaults):
    """Return the resources of a rule: the configuration's in place of those that suit the built-in world.

    Memory and time given as numbers grow when a job is tried again; words (`12h`) stay as they are.
    """
    chosen = defaults | CFG.resources.get(rule_name, {})
    return {
        name: growing(value) if name in ("mem_mb", "runtime") and isinstance(value, int) else value
        for name, value in chosen.items()
    }


include: "common/models.smk"
include: "common/data.smk"
include: "common/held_out.smk"
include: "common/activations.smk"
include: "common/world.smk"
include: "common/dictionaries.smk"
include: "common/features.smk"
include: "common/interventions.smk"
include: "common/labels.smk"
include: "common/heads.smk"
include: "common/comparisons.smk"
include: "common/ground_truth.smk"
include: "common/checks.smk"
