"""What all rule files share - the checked configuration, paths, wildcards, code digests."""

import os
import sys
from math import ceil
from pathlib import Path

ROOT = Path(workflow.basedir)
SCRIPTS = ROOT / "workflow_scripts"
sys.path.insert(0, str(SCRIPTS))
# Idle OpenMP threads must sleep, not spin: two spinning jobs on two cores run at a third of their speed.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from snakemake.exceptions import WorkflowError
from vlmdiff.config.load import ConfigError, load_config
from vlmdiff.runtime.digest import script_digest

try:
    CFG = load_config(config)
except ConfigError as error:
    raise WorkflowError(str(error))

RESULTS = f"results/{CFG.experiment}"
LAYERS = CFG.layers
SEEDS = range(CFG.seeds)


wildcard_constraints:
    model="[A-Za-z][A-Za-z0-9_]*",
    dataset="[A-Za-z][A-Za-z0-9_]*",
    dictionary="[A-Za-z][A-Za-z0-9_]*",
    concept="[A-Za-z][A-Za-z0-9_]*",
    scope="own_layer|all_layers",
    block=r"\d+",
    seed=r"\d+",
    layer=r"\d+",


def code_digest(rule_name):
    """Digest a rule's script and all library code that it reaches: a param of every rule."""
    return script_digest(SCRIPTS / f"{rule_name}.py")


def is_world(dataset):
    """Tell whether a data set is written by the built-in world."""
    return dataset not in CFG.datasets


def world_models_folder():
    """Where the built-in world's checkpoints lie: shipped with the code, or trained by this run."""
    return "resources/world" if CFG.world.models == "shipped" else f"{RESULTS}/world/models"


def model_path(name):
    """Return the checkpoint folder of a model of the configuration."""
    path = CFG.models[name].path
    return f"{world_models_folder()}/{path.removeprefix('world:')}" if path.startswith("world:") else path


def dataset_folder(dataset):
    """Return the folder that holds a data set's samples.jsonl."""
    return f"{RESULTS}/world/data/{dataset}" if is_world(dataset) else CFG.datasets[dataset].path


def samples_file(dataset):
    """Return a data set's samples.jsonl."""
    return f"{dataset_folder(dataset)}/samples.jsonl"


def blocks(dataset):
    """Return the indices of a data set's blocks of samples, each of which is one shard."""
    return range(ceil(CFG.dataset(dataset).samples / CFG.extraction.shard_samples))


def shards(model, dataset):
    """Return the activation shards of a model shown a data set, in the order of samples."""
    return [f"{RESULTS}/activations/{model}/{dataset}/shard_{block}.h5" for block in blocks(dataset)]


def dictionary_files(dictionary, seed, name="sae_weights.safetensors"):
    """Return one file of a dictionary for every layer."""
    return [f"{RESULTS}/dictionaries/{dictionary}/seed_{seed}/layer_{layer}/{name}" for layer in LAYERS]


include: "common/world.smk"
include: "common/dictionaries.smk"
include: "common/features.smk"
include: "common/interventions.smk"
include: "common/heads.smk"
include: "common/figures.smk"
