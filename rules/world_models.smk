"""The training of the built-in world's small models, from nothing."""

from vlmdiff.config.world import SNAPSHOTS


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
