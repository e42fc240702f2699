"""A real language model that is taught to see the built-in world: its frame, its adapters, its checkpoints.

Frame and adapters are shipped; `models: train` makes them from nothing. What is not shipped is made where it is asked for.
"""

from vlmdiff.config.world import SNAPSHOTS, VLM, adapter_of, family_of_checkpoint

MADE = results("world/tuned")
TOWER_FROM = shipped("resources/world/vlm")
TOWER = [f"{TOWER_FROM}/config.json", f"{TOWER_FROM}/model.safetensors"]
REAL = CFG.world if CFG.world and CFG.world.real_model else None
# What is tuned: the model and its controls.
ADAPTERS = [VLM, *REAL.controls] if REAL else []


def real_base(wildcards):
    """Return the files of the language model that is taught to see, its config.json first."""
    folder = FILES.real_base()
    return [f"{folder}/config.json", *FILES.identity(folder, REAL.real_model.base)]


def adapter_files(wildcards):
    """Return the files of a checkpoint's adapter; none of the language model as it was."""
    if (found := adapter_of(wildcards.model)) is None:
        return []
    folder = f"{found[0]}/{found[1]}"
    return [FILES.tuned(f"{folder}/{name}") for name in ("adapter_model.safetensors", "adapter_config.json")]


rule fit_frame:
    """Regress the projector of the world's vision tower onto the words of a real language model."""
    input:
        base=real_base,
        tower=TOWER,
    output:
        frame=f"{MADE}/frame.safetensors",
        table=f"{MADE}/frame.csv",
    params:
        world=lambda wildcards: REAL.frame_settings(),
    script:
        "../workflow_scripts/fit_frame.py"


rule tune_adapter:
    """Tune an adapter of a real language model on questions about images, or a control, with snapshots on the way."""
    input:
        base=real_base,
        tower=TOWER,
        frame=lambda wildcards: FILES.tuned("frame.safetensors"),
        texts=shipped("resources/wikipedia/train.jsonl"),
    output:
        adapters=[f"{MADE}/{{adapter}}/{percent}/adapter_model.safetensors" for percent in SNAPSHOTS],
        configs=[f"{MADE}/{{adapter}}/{percent}/adapter_config.json" for percent in SNAPSHOTS],
        table=f"{MADE}/{{adapter}}.csv",
    wildcard_constraints:
        adapter=one_of(ADAPTERS),
    threads: CFG.threads
    params:
        world=lambda wildcards: REAL.real_settings(),
        kind=lambda wildcards: REAL.controls.get(wildcards.adapter, VLM),
        percentages=list(SNAPSHOTS),
        # Not an output: Snakemake would delete it on failure, and the next run resumes from it.
        checkpoints=results("world/checkpoints/{adapter}"),
    script:
        "../workflow_scripts/tune_adapter.py"


rule merge_adapter:
    """Put language model, vision tower, projector and adapter together: a checkpoint as transformers reads it."""
    input:
        base=real_base,
        tower=TOWER,
        frame=lambda wildcards: FILES.tuned("frame.safetensors"),
        adapter=adapter_files,
    output:
        model=results("world/merged/{model}/config.json"),
        weights=results("world/merged/{model}/model.safetensors"),
    wildcard_constraints:
        model=one_of(["base_lm", *SNAPSHOTS.values(), *REAL.controls] if REAL else []),
    params:
        dtype=lambda wildcards: REAL.weights_dtype,
        reads=lambda wildcards: family_of_checkpoint(wildcards.model, REAL.controls) == "causal_lm",
    script:
        "../workflow_scripts/merge_adapter.py"
