"""The built-in world: its data sets, the training of its models, and their held-out accuracy."""

from vlmdiff.config.checkpoints import checkpoints, used_controls
from vlmdiff.config.world import SNAPSHOTS

WORLD = results("world")


include: "world_models.smk"
include: "real_model.smk"


rule generate_world:
    """Write one data set of the built-in world: drawn scenes, prompts and answers."""
    output:
        samples=results("world/data/{dataset}/samples.jsonl"),
        images=directory(results("world/data/{dataset}/images")),
    params:
        world=lambda wildcards: CFG.world.dataset_settings(wildcards.dataset),
    script:
        "../workflow_scripts/generate_world.py"


# Control models that this experiment uses.
CONTROLS = used_controls(CFG)
# Where models lie whose accuracy is measured together: the real one with its snapshots, or the controls.
MEASURED = {
    "shipped": (FILES.world_models() if CFG.world else WORLD, ["base_lm", *SNAPSHOTS.values()]),
    "trained": (f"{WORLD}/models", ["base_lm", *SNAPSHOTS.values()]),
    "controls": (FILES.world_models() if REAL else f"{WORLD}/models", CONTROLS),
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


# What is made of nothing: the small models, or the frame and the adapters of a real language model.
FROM_NOTHING = [
    results("world/accuracy_trained.csv"),
    [f"{WORLD}/models/{name}/config.json" for name in ["base_lm", "vlm_0", *SNAPSHOTS.values()]],
    [results(f"world/training_logs/{name}.csv") for name in ["base_lm", "vision", "vlm"]],
]
if REAL:
    FROM_NOTHING = [f"{MADE}/frame.safetensors", [results(f"world/tuned/{name}.csv") for name in ADAPTERS]]


rule world_models:
    """Target: train all models of the built-in world from nothing and measure them."""
    input:
        FROM_NOTHING,
