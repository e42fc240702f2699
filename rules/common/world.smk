"""Where the built-in world keeps its models, data sets and accuracies."""

from vlmdiff.config.checkpoints import checkpoints, snapshots
from vlmdiff.config.world import SNAPSHOTS, scenes_up_to

WORLD = f"{RESULTS}/world"
WORLD_MODELS = f"{WORLD}/models"
WORLD_ORIGINS = {"shipped": shipped("resources/world"), "trained": WORLD_MODELS, "controls": WORLD_MODELS}


def world_dataset_params(wildcards):
    """The part of the configuration on which one data set depends."""
    drawn = scenes_up_to(CFG.world.datasets[wildcards.dataset].scenes)
    chosen = CFG.world.model_dump(mode="json", include={"seed": True, "scenes": drawn})
    return chosen | {"datasets": {wildcards.dataset: CFG.world.datasets[wildcards.dataset].params()}}


def world_test_datasets():
    """Data sets of closed questions about scenes that no model has seen."""
    entries = CFG.world_datasets().items()
    return [name for name, entry in entries if entry.scenes == "test" and entry.kind != "text"]


def world_accuracy():
    """The accuracy table of the checkpoints that this experiment studies."""
    return f"{WORLD}/accuracy_{'shipped' if CFG.world.models == 'shipped' else 'trained'}.csv"


def real_training_log():
    """The log of the real VLM's tuning, whose schedule control models follow."""
    folder = shipped("resources/world") if CFG.world.models == "shipped" else WORLD
    return f"{folder}/training_logs/vlm.csv"


def control_settings(wildcards):
    """The part of the configuration on which the training of a control model depends."""
    if CFG.world.controls[wildcards.control] != "continued_text":
        return CFG.world.stage_settings("tuning")
    # It only reads on, as the language model did; its log has a row where the real one may have one.
    read_on = {"language_model": {"learning_rate", "batch_size"}, "tuning": {"check_every"}}
    return CFG.world.model_dump(
        mode="json", include={"seed": True, "weights_dtype": True, "scenes": {"train"}, **read_on}
    )


def world_controls():
    """Names of the control models that could be trained."""
    return list(CFG.world.controls) if CFG.world else []


def named_controls():
    """Names of the control models that this experiment uses."""
    used = set(checkpoints(CFG, controls=True).values())
    return [name for name in world_controls() if name in used]


def measured_models(origin):
    """The models whose accuracy is measured together: the real one with its snapshots, or the controls."""
    return named_controls() if origin == "controls" else ["base_lm", *SNAPSHOTS.values()]


def control_accuracies(target):
    """The accuracy table of the control models, for the target that is about them."""
    return [f"{WORLD}/accuracy_controls.csv"] if target == "controls" and named_controls() else []
