"""The built-in world: its data sets, the training of its models, and their held-out accuracy."""

from vlmdiff.config.checkpoints import checkpoints, used_controls
from vlmdiff.config.world import SNAPSHOTS

WORLD = results("world")


rule generate_world:
    """Write one data set of the built-in world: drawn scenes, prompts and answers."""
    output:
        samples=results("world/data/{dataset}/samples.jsonl"),
        images=directory(results("world/data/{dataset}/images")),
    params:
        world=lambda wildcards: CFG.world.dataset_settings(wildcards.dataset),
    script:
        "../workflow_scripts/generate_world.py"


rule train_world_base_lm:
    """Train the base language model on text about the world."""
    output:
        model=results("world/models/base_lm/config.json"),
        weights=results("world/models/base_lm/model.safetensors"),
        table=results("world/training_logs/base_lm.csv"),
    params:
        world=lambda wildcards: CFG.world.stage_settings("language_model"),
    script:
        "../workflow_scripts/train_world_base_lm.py"


rule train_world_vision:
    """Pre-train the vision tower and align its projector with the base model's words."""
    input:
        base_lm=rules.train_world_base_lm.output.model,
        weights=rules.train_world_base_lm.output.weights,
    output:
        model=results("world/models/vlm_0/config.json"),
        weights=results("world/models/vlm_0/model.safetensors"),
        table=results("world/training_logs/vision.csv"),
    params:
        world=lambda wildcards: CFG.world.stage_settings("vision"),
    script:
        "../workflow_scripts/train_world_vision.py"


rule train_world_vlm:
    """Tune the aligned VLM on questions about images, with snapshots on the way."""
    input:
        aligned=rules.train_world_vision.output.model,
        weights=rules.train_world_vision.output.weights,
    output:
        models=[f"{WORLD}/models/{name}/config.json" for name in SNAPSHOTS.values()],
        weights=[f"{WORLD}/models/{name}/model.safetensors" for name in SNAPSHOTS.values()],
        table=results("world/training_logs/vlm.csv"),
    params:
        world=lambda wildcards: CFG.world.stage_settings("tuning"),
        percentages=list(SNAPSHOTS),
        # Not an output: Snakemake would delete it on failure, and the next run resumes from it.
        checkpoints=results("world/checkpoints/vlm"),
    script:
        "../workflow_scripts/train_world_vlm.py"


rule train_world_control:
    """Train a model like the real one, with one thing taken away (docs/understand/controls.md)."""
    input:
        base_lm=lambda wildcards: f"{FILES.world_models()}/base_lm/config.json",
        vlm=lambda wildcards: f"{FILES.world_models()}/vlm/config.json",
        weights=lambda wildcards: [
            f"{FILES.world_models()}/{name}/model.safetensors" for name in ["base_lm", "vlm"]
        ],
        # Its schedule is followed.
        log=lambda wildcards: (
            shipped("resources/world/training_logs/vlm.csv")
            if CFG.world.models == "shipped"
            else rules.train_world_vlm.output.table
        ),
    output:
        model=results("world/models/{control}/config.json"),
        weights=results("world/models/{control}/model.safetensors"),
        table=results("world/training_logs/{control}.csv"),
    wildcard_constraints:
        control=one_of(CFG.world.controls if CFG.world else []),
    params:
        world=lambda wildcards: CFG.world.control_settings(wildcards.control),
        kind=lambda wildcards: CFG.world.controls[wildcards.control],
        # Not an output: Snakemake would delete it on failure, and the next run resumes from it.
        checkpoints=results("world/checkpoints/{control}"),
    script:
        "../workflow_scripts/train_world_control.py"


# Control models that this experiment uses.
CONTROLS = used_controls(CFG)
# Where models lie whose accuracy is measured together: the real one with its snapshots, or the controls.
MEASURED = {
    "shipped": (shipped("resources/world"), ["base_lm", *SNAPSHOTS.values()]),
    "trained": (f"{WORLD}/models", ["base_lm", *SNAPSHOTS.values()]),
    "controls": (f"{WORLD}/models", CONTROLS),
}
TEST_DATA = [name for name, entry in CFG.world_datasets().items() if entry.is_test_data()]


def measured(file):
    """Return an input function: a file of each model whose accuracy is measured together."""

    def files(wildcards):
        folder, names = MEASURED[wildcards.origin]
        return [f"{folder}/{name}/{file}" for name in names]

    return files


rule evaluate_world:
    """Measure held-out accuracy with images, without them, and with shuffled ones."""
    input:
        models=measured("config.json"),
        weights=measured("model.safetensors"),
        samples=[f"{WORLD}/data/{name}/samples.jsonl" for name in TEST_DATA],
        images=[folder_beside(f"{WORLD}/data/{name}/images") for name in TEST_DATA],
    output:
        table=shown("world/accuracy_{origin}.csv", "Models and data", "Accuracy", "accuracy"),
    wildcard_constraints:
        origin=one_of(MEASURED),
    params:
        models=lambda wildcards: MEASURED[wildcards.origin][1],
        datasets=TEST_DATA,
        seed=CFG.seed,
    script:
        "../workflow_scripts/evaluate_world.py"


rule world_models:
    """Target: train all models of the built-in world from nothing and measure them."""
    input:
        results("world/accuracy_trained.csv"),
        [f"{WORLD}/models/{name}/config.json" for name in ["base_lm", "vlm_0", *SNAPSHOTS.values()]],
        [results(f"world/training_logs/{name}.csv") for name in ["base_lm", "vision", "vlm"]],
