"""The built-in world: its data sets, the training of its models, and their held-out accuracy."""

from vlmdiff.config.checkpoints import checkpoints
from vlmdiff.config.world import SNAPSHOTS, scenes_up_to

WORLD = results("world")
WORLD_MODELS = f"{WORLD}/models"
WORLD_ORIGINS = {"shipped": shipped("resources/world"), "trained": WORLD_MODELS, "controls": WORLD_MODELS}


def world_dataset_params(wildcards):
    """The part of the configuration on which one data set depends."""
    drawn = scenes_up_to(CFG.world.datasets[wildcards.dataset].scenes)
    chosen = CFG.world.model_dump(mode="json", include={"seed": True, "scenes": drawn})
    return chosen | {"datasets": {wildcards.dataset: CFG.world.datasets[wildcards.dataset].params()}}


rule generate_world:
    """Write one data set of the built-in world: drawn scenes, prompts and answers."""
    output:
        samples=results("world/data/{dataset}/samples.jsonl"),
        images=directory(results("world/data/{dataset}/images")),
    params:
        world=world_dataset_params,
    script:
        "../workflow_scripts/generate_world.py"


rule train_world_base_lm:
    """Train the base language model on text about the world."""
    output:
        model=results("world/models/base_lm/config.json"),
        weights=results("world/models/base_lm/model.safetensors"),
        table=results("world/training_logs/base_lm.csv"),
    resources:
        **rule_resources("train_world_base_lm", mem_mb=1200, runtime=20),
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
    resources:
        **rule_resources("train_world_vision", mem_mb=2000, runtime=20),
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
        models=[f"{WORLD_MODELS}/{name}/config.json" for name in SNAPSHOTS.values()],
        weights=[f"{WORLD_MODELS}/{name}/model.safetensors" for name in SNAPSHOTS.values()],
        table=results("world/training_logs/vlm.csv"),
    resources:
        **rule_resources("train_world_vlm", mem_mb=2000, runtime=120),
    params:
        world=lambda wildcards: CFG.world.stage_settings("tuning"),
        percentages=list(SNAPSHOTS),
        # Not an output: Snakemake would delete it on failure, and the next run resumes from it.
        checkpoints=results("world/checkpoints/vlm"),
    script:
        "../workflow_scripts/train_world_vlm.py"


def control_settings(wildcards):
    """The part of the configuration on which the training of a control model depends."""
    if CFG.world.controls[wildcards.control] != "continued_text":
        return CFG.world.stage_settings("tuning")
    # It only reads on, as the language model did; its log has a row where the real one may have one.
    read_on = {"language_model": {"learning_rate", "batch_size"}, "tuning": {"check_every"}}
    return CFG.world.model_dump(
        mode="json", include={"seed": True, "weights_dtype": True, "scenes": {"train"}, **read_on}
    )


rule train_world_control:
    """Train a model like the real one, with one thing taken away (docs/understand/controls.md)."""
    input:
        base_lm=lambda wildcards: f"{world_models_folder()}/base_lm/config.json",
        vlm=lambda wildcards: f"{world_models_folder()}/vlm/config.json",
        weights=lambda wildcards: [
            f"{world_models_folder()}/{name}/model.safetensors" for name in ["base_lm", "vlm"]
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
    resources:
        **rule_resources("train_world_control", mem_mb=2000, runtime=120),
    params:
        world=control_settings,
        kind=lambda wildcards: CFG.world.controls[wildcards.control],
        # Not an output: Snakemake would delete it on failure, and the next run resumes from it.
        checkpoints=results("world/checkpoints/{control}"),
    script:
        "../workflow_scripts/train_world_control.py"


def named_controls():
    """Names of the control models that this experiment uses."""
    used = set(checkpoints(CFG, controls=True).values())
    return [name for name in (CFG.world.controls if CFG.world else []) if name in used]


def measured_models(origin):
    """The models whose accuracy is measured together: the real one with its snapshots, or the controls."""
    return named_controls() if origin == "controls" else ["base_lm", *SNAPSHOTS.values()]


def measured(file):
    """Return an input function: a file of each model whose accuracy is measured together."""
    return lambda wildcards: [
        f"{WORLD_ORIGINS[wildcards.origin]}/{name}/{file}" for name in measured_models(wildcards.origin)
    ]


# Data sets of closed questions about scenes that no model has seen.
TEST_DATA = [
    name for name, entry in CFG.world_datasets().items() if entry.scenes == "test" and entry.kind != "text"
]


rule evaluate_world:
    """Measure held-out accuracy with images, without them, and with shuffled ones."""
    input:
        models=measured("config.json"),
        weights=measured("model.safetensors"),
        samples=[f"{WORLD}/data/{name}/samples.jsonl" for name in TEST_DATA],
        images=[folder_beside(f"{WORLD}/data/{name}/images") for name in TEST_DATA],
    output:
        table=shown(
            "world/accuracy_{origin}.csv", "Models", "accuracy", table="Accuracy", checkpoints="{origin}"
        ),
    wildcard_constraints:
        origin=one_of(WORLD_ORIGINS),
    resources:
        **rule_resources("evaluate_world", mem_mb=1500, runtime=10),
    params:
        models=lambda wildcards: measured_models(wildcards.origin),
        datasets=TEST_DATA,
        seed=CFG.seed,
    script:
        "../workflow_scripts/evaluate_world.py"


def world_accuracy():
    """The accuracy table of the checkpoints that this experiment studies."""
    return results(f"world/accuracy_{'shipped' if CFG.world.models == 'shipped' else 'trained'}.csv")


def control_accuracies(target):
    """The accuracy table of the control models, for the target that is about them."""
    return [results("world/accuracy_controls.csv")] if target == "controls" and named_controls() else []


rule world_models:
    """Target: train all models of the built-in world from nothing and measure them."""
    input:
        results("world/accuracy_trained.csv"),
        [f"{WORLD_MODELS}/{name}/config.json" for name in ["base_lm", "vlm_0", *SNAPSHOTS.values()]],
        [results(f"world/training_logs/{name}.csv") for name in ["base_lm", "vision", "vlm"]],
