"""Checkpoints of the models under study: where they lie, what they are known by, and how they are loaded."""

from vlmdiff.config.cases import hub_sources
from vlmdiff.config.local_files import BESIDE_WEIGHTS, WEIGHTS, files_of
from vlmdiff.config.sources import is_hub, is_literal, world_model


def world_models_folder():
    """Where the built-in world's checkpoints lie: shipped with the code, or trained by this run."""
    return shipped("resources/world") if CFG.world.models == "shipped" else results("world/models")


def checkpoint_folder(name, source):
    """Return where the files of a source lie: in the built-in world, fetched from the hub, or where it says."""
    if is_hub(source):
        return results(f"models/{name}")
    model = world_model(source)
    if model is None:
        return source
    # Control models are never shipped.
    folder = results("world/models") if model in CFG.world.controls else world_models_folder()
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
    """Return what a checkpoint is known by, apart from config.json, which other weights may have too."""
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
        files += [config_file(model.untuned), *weight_files(model.untuned)]
    return files


def config_file(name):
    """Return the config.json of a model's checkpoint."""
    return f"{model_path(name)}/config.json"


def checkpoint_of(model):
    """Return the inputs that are a model: of this name, or of the one that a function tells of wildcards."""
    if not callable(model):
        return {"model": config_file(model), "weights": weight_files(model)}
    return {
        "model": lambda wildcards: config_file(model(wildcards)),
        "weights": lambda wildcards: weight_files(model(wildcards)),
    }


def subject_params(name):
    """Return how a model is loaded, its path aside."""
    model = CFG.models[name]
    untuned = None if model.untuned is None else model_path(model.untuned)
    return model.params("path", "planned") | {"vision_tower": vision_tower_folder(name), "untuned": untuned}


def named_subject(name):
    """Return a model's name and how it is loaded, its path aside."""
    return {"name": name, "values": subject_params(name)}


rule fetch_model:
    """Fetch a checkpoint or vision tower from the Hugging Face hub, which cluster nodes may not reach."""
    output:
        # All else in the folder is links into the hub's cache.
        config=results("models/{checkpoint}/config.json"),
        # Not hub.json, by which a folder that is filled again keeps its commit: Snakemake would delete it.
        commit=results("models/{checkpoint}/commit.json"),
    wildcard_constraints:
        checkpoint=one_of(hub_sources(CFG)),
    localrule: True
    resources:
        **rule_resources("fetch_model", mem_mb=1000, runtime=240),
    params:
        source=lambda wildcards: hub_sources(CFG)[wildcards.checkpoint],
    script:
        "../workflow_scripts/fetch_model.py"
