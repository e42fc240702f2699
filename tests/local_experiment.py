"""An experiment on checkpoints and samples in folders, as small as a dry run takes for real ones."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

DECODER = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "vocab_size": 90}
LM = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **DECODER}
VLM = {
    "model_type": "llava",
    "architectures": ["LlavaForConditionalGeneration"],
    "vision_config": {"model_type": "clip_vision_model"},
    "text_config": DECODER | {"model_type": "llama", "vocab_size": 91},
}
TOWER = {"model_type": "clip_vision_model", "hidden_size": 20}
# It goes through the parts of a message.
TEMPLATE = "{% for part in messages[0]['content'] %}{{ part['text'] }}{% endfor %}"
GROUPS = ("left of", "above", "colour")
SAMPLES = 18


def write_checkpoint(folder: Path, description: dict[str, Any], processor: bool = True) -> Path:
    """Write what a checkpoint consists of, with weights of one number."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(description))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    if processor:
        (folder / "preprocessor_config.json").write_text("{}")
    save_file({"one": np.ones(1, np.float32)}, folder / "model.safetensors")
    return folder


def question(index: int) -> dict[str, Any]:
    """Return a sample with an image and two choices."""
    return {
        "sample_id": f"q{index}",
        "image": f"images/{index % 7}.png",
        "prompt": f"is thing {index} there ?",
        "answer": ("yes", "no")[index % 2],
        "choices": ["yes", "no"],
        "group": GROUPS[index % len(GROUPS)],
    }


def document(index: int) -> dict[str, Any]:
    """Return a sample without an image."""
    return {
        "sample_id": f"t{index}",
        "image": None,
        "prompt": f"text {index}",
        "group": "text",
        "chat": False,
    }


def write_samples(folder: Path, samples: list[dict[str, Any]]) -> Path:
    """Write samples.jsonl, and a file for each image that it names."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    for sample in samples:
        if sample.get("image"):
            (folder / sample["image"]).write_bytes(b"")
    return folder


def stage(initial: str, model: str, dataset: str) -> dict[str, Any]:
    """Return the entry of a dictionary."""
    budget = {"steps": 4, "batch_tokens": 32, "learning_rate": 0.001}
    return {"initial": initial, "model": model, "dataset": dataset, **budget}


def experiment(root: Path) -> dict[str, Any]:
    """Write two checkpoints and data sets into a folder; return a configuration that fits them."""
    write_checkpoint(root / "lm", LM, processor=False)
    write_checkpoint(root / "vlm", VLM)
    questions = [question(index) for index in range(SAMPLES)]
    for name in ("train", "rank", "general", "test", "general_test"):
        write_samples(root / name, questions)
    for name in ("text", "more_text"):
        write_samples(root / name, [document(index) for index in range(SAMPLES)])
    names = ("train", "rank", "general", "test", "general_test", "text", "more_text")
    return copy.deepcopy(
        {
            "experiment": "mine",
            "layers": [1],
            "models": {"lm": {"path": str(root / "lm")}, "vlm": {"path": str(root / "vlm")}},
            "datasets": {name: {"path": str(root / name), "samples": SAMPLES} for name in names},
            "architecture": {"d_sae": 96, "k": 4},
            "dictionaries": {
                "base": stage("random", "lm", "text"),
                "adapted": stage("base", "vlm", "train"),
                "null_text": stage("base", "lm", "more_text"),
            },
            "evaluation": [{"dictionaries": ["base"], "model": "lm", "dataset": "text"}],
            "diff": {"visual_datasets": ["rank"], "text_datasets": ["text"]},
            "concepts": {
                "space": {
                    "target": {"dataset": "rank", "groups": ["left of", "above"]},
                    "baseline": {"dataset": "rank", "without": ["left of", "above"]},
                }
            },
            "lexical": {"prompts": ["what is there ?"]},
            "ablation": {
                "concepts": ["space"],
                "rank_on": {"target": "rank", "control": "general", "samples": 12},
                "report_on": {"target": "test", "control": "general_test", "samples": 12},
            },
            "heads": {
                "concepts": ["space"],
                "dataset": "rank",
                "head_means": {"dataset": "general", "samples": 12},
                "report_on": {"target": "test", "control": "general_test", "samples": 12},
            },
        }
    )


def put(values: dict[str, Any], path: str, value: Any) -> None:
    """Set a key; parts of the path between dots, ... to take it away."""
    *parents, last = path.split(".")
    for part in parents:
        values = values.setdefault(part, {})
    if value is ...:
        values.pop(last)
    else:
        values[last] = value
