"""Everything that an experiment on published models reads, tiny and random, in the published layouts."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import published_dictionaries as published
import tiny_llava_original
import tiny_paligemma
import tiny_smolvlm
import torch
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[1]
LAYERS, D_MODEL, D_SAE, K = (0, 1), 32, 64, 4
COLOURS = ("red", "green", "blue", "yellow", "white", "black")
QUESTIONS = (
    ("What color is the object on the left?", "red", "other", "what color is the"),
    ("How many objects are there?", "2", "number", "how many"),
    ("Is there a circle?", "yes", "yes/no", "is there a"),
    ("Is it behind the other one?", "no", "yes/no", "is it"),
    ("Is the picture dark?", "no", "yes/no", "is the"),
    ("What is in front of the square?", "circle", "other", "what is in"),
    ("Is this a photo?", "yes", "yes/no", "is this a"),
    ("What color is the circle?", "blue", "other", "what color is the"),
)


def draw_picture(path: Path, seed: int) -> None:
    """Draw two shapes; pictures differ in size, as photographs do."""
    rng = random.Random(seed)
    width, height = rng.randrange(40, 90), rng.randrange(40, 90)
    picture = Image.new("RGB", (width, height), rng.choice(COLOURS))
    draw = ImageDraw.Draw(picture)
    for shape in (draw.ellipse, draw.rectangle):
        left, top = rng.randrange(width - 20), rng.randrange(height - 20)
        shape((left, top, left + 18, top + 18), fill=rng.choice(COLOURS))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def write_vqa(
    folder: Path, split: str, questions: int, asking: Sequence[tuple[str, str, str, str]] = QUESTIONS
) -> Path:
    """Write VQAv2's official files for a split, with a folder of COCO images in `coco`; splits share none.

    Args:
        folder: where they go.
        split: train or val.
        questions: how many.
        asking: question, answer, answer type and question type of those that are asked in turn.
    """
    asked, answered, first = [], [], {"train": 700, "val": 2000}[split]
    for i in range(questions):
        question, answer, answer_type, question_type = asking[(i + i // 8) % len(asking)]
        key = {"question_id": 8 * first + i, "image_id": first + i // 8}
        asked.append({**key, "question": question})
        kind = {"answer_type": answer_type, "question_type": question_type}
        answered.append({**key, **kind, "multiple_choice_answer": answer, "answers": []})
    for image_id in {one["image_id"] for one in asked}:
        name = f"COCO_{split}2014_{image_id:012d}.jpg"
        draw_picture(folder / "coco" / f"{split}2014" / name, image_id)
    files = {f"v2_OpenEnded_mscoco_{split}2014_questions": {"questions": asked}}
    files[f"v2_mscoco_{split}2014_annotations"] = {"annotations": answered}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def write_vsr_images(folder: Path, statements: int, leave_out: int = 0) -> Path:
    """Draw a picture for the first real statements of each split of VSR; the last ones stay missing."""
    for first, split in ((0, "train"), (statements, "test")):
        lines = (ROOT / "resources" / "vsr_random" / f"{split}.jsonl").read_text().splitlines()
        for number, line in enumerate(lines[: statements - leave_out]):
            draw_picture(folder / "train2017" / json.loads(line)["image"], first + number)
    return folder


def write_vsr(folder: Path, statements: int) -> Path:
    """Write the first real statements of each split of VSR."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        lines = (ROOT / "resources" / "vsr_random" / f"{split}.jsonl").read_text().splitlines()
        (folder / f"{split}.jsonl").write_text("\n".join(lines[:statements]) + "\n")
    return folder


def write_corpus(folder: Path, documents: int = 400) -> Path:
    """Write a text corpus as JSON lines."""
    rng = random.Random(0)
    words = " ".join(question for question, *_ in QUESTIONS).lower().split()
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"text": " ".join(rng.choices(words, k=20))}) for _ in range(documents))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def dictionary_weights(seed: int, moved: float = 0.0) -> dict[str, torch.Tensor]:
    """Return a dictionary of random directions; with `moved` its rows are turned a little."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(D_SAE, D_MODEL, generator=generator), dim=1)
    rows = torch.nn.functional.normalize(
        rows + moved * torch.randn(D_SAE, D_MODEL, generator=generator), dim=1
    )
    return {
        "W_enc": rows.T.contiguous(),
        "b_enc": torch.zeros(D_SAE),
        "W_dec": rows,
        "b_dec": torch.zeros(D_MODEL),
        "threshold": torch.full((D_SAE,), 0.5),
    }


def put_into_cache(cache: Path, repository: str, folder: Path) -> None:
    """Put a folder into a Hugging Face cache as commit `main` of a repository."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    published.write_hub_cache(cache, repository, files)


def write_llava_more(root: Path) -> Path:
    """Fill a cache with what config/llava_more.yaml fetches; return it."""
    made, cache = root / "made", root / "cache" / "hub"
    put_into_cache(
        cache, "aimagelab/LLaVA_MORE-llama_3_1-8B-finetuning", tiny_llava_original.build(made / "vlm")
    )
    tower = tiny_llava_original.build_tower(made / "tower", pickled=True)
    put_into_cache(cache, "openai/clip-vit-large-patch14-336", tower)
    lm = tiny_llava_original.build_lm(made / "lm")
    put_into_cache(cache, "meta-llama/Llama-3.1-8B-Instruct", lm)
    for layer in LAYERS:
        weights = dictionary_weights(layer)
        folder = made / "scope" / f"Llama3_1-8B-Base-L{layer}R-8x"
        point = f"blocks.{layer}.hook_resid_post"
        changes = {"d_model": D_MODEL, "d_sae": D_SAE, "expansion_factor": D_SAE // D_MODEL}
        changes |= {"hook_point_in": point, "hook_point_out": point}
        published.write_llama_scope(folder, weights, **changes)
        weights = dictionary_weights(layer, moved=0.1)
        del weights["threshold"]
        file = made / "mmdiff" / "llava_more" / "topk_text_only" / f"text-only_layer_{layer}.pt"
        published.write_mmdiff(file, weights)
    put_into_cache(cache, "fnlp/Llama3_1-8B-Base-LXR-8x", made / "scope")
    put_into_cache(cache, "OX-PIXL/MMDiff_SAEs", made / "mmdiff")
    return cache


def write_paligemma2(root: Path) -> Path:
    """Fill a cache with what config/paligemma2.yaml fetches; return it."""
    made, cache = root / "made", root / "cache" / "hub"
    put_into_cache(cache, "google/paligemma2-3b-mix-448", tiny_paligemma.build(made / "vlm"))
    put_into_cache(cache, "google/gemma-2-2b", tiny_paligemma.build_lm(made / "lm"))
    for layer in LAYERS:
        folder = made / "scope" / f"layer_{layer}" / "width_16k" / f"average_l0_{100 + layer}"
        published.write_gemma_scope(folder, dictionary_weights(layer))
        file = made / "mmdiff" / "paligemma2" / "jumprelu_text_only" / f"text-only_layer_{layer}.pt"
        published.write_mmdiff(file, dictionary_weights(layer, moved=0.1))
    put_into_cache(cache, "google/gemma-scope-2b-pt-res", made / "scope")
    put_into_cache(cache, "OX-PIXL/MMDiff_SAEs", made / "mmdiff")
    return cache


def write_smolvlm(root: Path) -> Path:
    """Fill a cache with what config/smolvlm.yaml fetches for its two main models; return it."""
    made, cache = root / "made", root / "cache" / "hub"
    put_into_cache(cache, "HuggingFaceTB/SmolVLM-256M-Instruct", tiny_smolvlm.build(made / "vlm"))
    put_into_cache(cache, "HuggingFaceTB/SmolLM2-135M-Instruct", tiny_smolvlm.build_lm(made / "lm"))
    return cache


def datasets(root: Path) -> dict[str, Any]:
    """Write all sources; return the data sets of the config. A tenth of VSR's pictures is missing."""
    vqa, coco = write_vqa(root / "vqa", "train", 600), root / "vqa" / "coco"
    write_vqa(vqa, "val", 200)
    vsr, pictures = write_vsr(root / "vsr", 60), write_vsr_images(root / "coco2017", 60, leave_out=6)
    text = write_corpus(root / "text")
    ask = {"kind": "vqav2", "source": str(vqa), "split": "train", "images": str(coco)}
    tell = {"kind": "vsr", "source": str(vsr), "images": str(pictures), "on_missing": "skip", "samples": 60}
    read = {"kind": "text", "source": str(text), "words": 16}
    closed = {"answers": "yes_no", "prompt": "{question} Answer only with 'Yes' or 'No'."}
    return {
        "vqa_train": {**ask, "samples": 120},
        "vqa_val": {**ask, "samples": 60, "offset": 120, "questions": "not_spatial"},
        "vqa_spatial": {**ask, "samples": 40, "offset": 260, "questions": "spatial"},
        "vqa_yes_no_val": {**ask, **closed, "samples": 24, "offset": 400},
        "vqa_yes_no_test": {**ask, **closed, "samples": 24, "split": "val"},
        "vsr_val": {**tell, "split": "train"},
        "vsr_test": {**tell, "split": "test"},
        "text_null": {**read, "samples": 120, "offset": 60},
        "text_val": {**read, "samples": 60},
    }


def analysis() -> dict[str, Any]:
    """Return the sections that both experiments share, with thresholds that let random features pass."""
    loose = {"min_odds_ratio": 1.01, "min_frequency_difference": 0.0, "fdr": 1.0}
    report = {"target": "vsr_test", "control": "vqa_yes_no_test", "samples": 24}
    questions = {"report_on": report, "bootstrap": 100}
    return {
        "layers": list(LAYERS),
        "evaluation": [
            {"dictionaries": ["base", "null_text"], "model": "base_lm", "dataset": "text_val"},
            {"dictionaries": ["base", "adapted"], "model": "vlm", "dataset": "vqa_val", "tokens": ["text"]},
        ],
        "diff": {
            "model": "vlm",
            "visual_datasets": ["vqa_val", "vsr_val"],
            "text_datasets": ["text_val"],
            "eps": 0.0001,
            "percentile": 60,
            "rule": "percentile",
        },
        "concepts": {
            "spatial": {"target": {"dataset": "vsr_val"}, "baseline": {"dataset": "vqa_val"}, **loose},
            "spatial_vqa": {
                "target": {"dataset": "vqa_spatial"},
                "baseline": {"dataset": "vqa_val"},
                **loose,
            },
        },
        "lexical": {"prompts": ["Describe this image."], "samples": 3, "min_pair_fraction": 0.0},
        "ablation": {
            "concepts": ["spatial"],
            "candidates": 4,
            "single_features": 2,
            "set_sizes": [2],
            "headline": {"size": 2},
            "rank_on": {"target": "vsr_val", "control": "vqa_yes_no_val", "samples": 24},
            **questions,
        },
        "heads": {
            "concepts": ["spatial"],
            "features": 2,
            "dataset": "vsr_val",
            "samples": 8,
            "image_samples": 16,
            "ablate_sizes": [1],
            "random_draws": 3,
            "exact_heads": 2,
            "head_means": {"dataset": "vqa_yes_no_val", "samples": 24},
            **questions,
        },
    }


def llava_more(root: Path) -> dict[str, Any]:
    """Return a tiny experiment of the same kind as config/llava_more.yaml: Llama Scope, TopK, warm start."""
    vlm = "hub:aimagelab/LLaVA_MORE-llama_3_1-8B-finetuning@main"
    tower = "hub:openai/clip-vit-large-patch14-336@main"
    scope = {"source": "hub:fnlp/Llama3_1-8B-Base-LXR-8x@main", "format": "llama_scope"}
    train = {"initial": "base", "steps": 30, "batch_tokens": 128}
    return {
        "experiment": "tiny_llava_more",
        "models": {
            "base_lm": {"family": "causal_lm", "path": "hub:meta-llama/Llama-3.1-8B-Instruct@main"},
            "vlm": {"family": "llava_original", "path": vlm, "vision_tower": tower},
        },
        "datasets": datasets(root),
        "extraction": {"shard_samples": 100, "batch_tokens": 2048, "store": "stream"},
        "architecture": {"kind": "topk", "d_sae": D_SAE, "k": K},
        "dictionaries": {
            "base": {**scope, "file": "Llama3_1-8B-Base-L{layer}R-8x"},
            "adapted": {
                **train,
                "model": "vlm",
                "dataset": "vqa_train",
                "learning_rate": 1.0e-3,
                "snapshots": [50],
            },
            "null_text": {**train, "model": "base_lm", "dataset": "text_null", "learning_rate": 1.0e-3},
        },
        **analysis(),
    }


def paligemma2(root: Path) -> dict[str, Any]:
    """Return a tiny experiment on PaliGemma 2: Gemma Scope, the published adapted dictionary, bf16 shards."""
    scope = {"source": "hub:google/gemma-scope-2b-pt-res@main", "format": "gemma_scope"}
    budget = {"steps": 30, "batch_tokens": 128, "learning_rate": 1.0e-4}
    adapted = {"source": "hub:OX-PIXL/MMDiff_SAEs@main", "format": "mmdiff", "initial": "base"}
    return {
        "experiment": "tiny_paligemma2",
        "models": {
            "base_lm": {
                "family": "causal_lm",
                "path": "hub:google/gemma-2-2b@main",
                "chat": False,
                "attention": "eager",
            },
            "vlm": {
                "family": "paligemma",
                "path": "hub:google/paligemma2-3b-mix-448@main",
                "attention": "eager",
                "dtype": "bfloat16",
            },
        },
        "datasets": datasets(root),
        "extraction": {
            "shard_samples": 100,
            "batch_tokens": 2048,
            "store": "temporary",
            "storage": "bfloat16",
            "layers_at_once": 1,
        },
        "architecture": {"kind": "jumprelu", "d_sae": D_SAE, "k": K},
        "dictionaries": {
            "base": {
                **scope,
                "file": "layer_{layer}/width_16k/average_l0_{l0}",
                "by_layer": {"l0": {layer: 100 + layer for layer in LAYERS}},
            },
            "adapted": {
                **adapted,
                "file": "paligemma2/jumprelu_text_only/text-only_layer_{layer}.pt",
                "budget": budget,
            },
            "null_text": {
                "initial": "base",
                "model": "base_lm",
                "dataset": "text_null",
                **budget,
            },
        },
        **analysis(),
    }


def smolvlm(root: Path) -> dict[str, Any]:
    """Return a tiny experiment of the same kind as config/smolvlm.yaml, whose base dictionary is trained."""
    train = {"batch_tokens": 128, "learning_rate": 1.0e-3}
    warm = {"initial": "base", "steps": 30, **train}
    sources = datasets(root)
    text = {**sources["text_null"], "samples": 200, "offset": 180}
    return {
        "experiment": "tiny_smolvlm",
        "models": {
            "base_lm": {"family": "causal_lm", "path": "hub:HuggingFaceTB/SmolLM2-135M-Instruct@main"},
            "vlm": {"family": "idefics3", "path": "hub:HuggingFaceTB/SmolVLM-256M-Instruct@main"},
        },
        "datasets": {**sources, "text_train": text},
        "extraction": {"shard_samples": 100, "batch_tokens": 2048, "storage": "bfloat16"},
        "architecture": {"kind": "topk", "d_sae": D_SAE, "k": K},
        "dictionaries": {
            "base": {"model": "base_lm", "dataset": "text_train", "steps": 60, **train},
            "adapted": {**warm, "model": "vlm", "dataset": "vqa_train", "snapshots": [50]},
            "null_text": {**warm, "model": "base_lm", "dataset": "text_null"},
        },
        **analysis(),
    }
