"""One look by this project: `python -m published.ours SPEC OUT` writes what it saw as arrays and as facts."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from published.probe import QUESTION, peak_gb, picture, residuals


def look_at_model(spec: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Load a checkpoint by its family, and show it the question and, if it sees, the picture.

    Args:
        spec: `family`, `folder`, `vision_tower` (a folder or None), `dtype`.

    Returns:
        token ids and the logits that follow the last one; facts for the page.
    """
    import torch

    from vlmdiff.config.families import LANGUAGE_MODEL
    from vlmdiff.models.registry import load_subject

    started = time.perf_counter()
    entry = {"family": spec["family"], "dtype": spec["dtype"], "attention": "eager"}
    entry["vision_tower"] = spec["vision_tower"]
    subject = load_subject(spec["family"], entry, spec["folder"])
    loaded = time.perf_counter()
    shown = None if spec["family"] == LANGUAGE_MODEL else picture()
    with torch.inference_mode():
        batch = subject.prepare([QUESTION], [shown])
        logits = subject.final_logits(batch)[0].float().cpu()
    places = 0 if subject.image_id is None else int((batch.input_ids == subject.image_id).sum())
    facts = {
        "shape": f"{subject.n_layers} blocks of width {subject.d_model}, {places} image tokens",
        "says": subject.tokenizer.decode([int(logits.argmax())]).strip(),
        "load_s": loaded - started,
        "look_s": time.perf_counter() - loaded,
    }
    return {"ids": batch.input_ids[0].cpu().numpy(), "logits": logits.numpy()}, facts


def look_at_dictionary(spec: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a published dictionary, and encode and rebuild residuals that are sums of its rows.

    Args:
        spec: `format`, `path`, `k`.

    Returns:
        residuals, activations in units of unit rows, reconstructions; facts for the page.
    """
    import torch

    from vlmdiff.dictionaries.files import PublishedSource, load_dictionary

    started = time.perf_counter()
    dictionary = load_dictionary(PublishedSource(spec["format"], spec["path"], spec["k"]))
    loaded = time.perf_counter()
    with torch.no_grad():
        x = residuals(dictionary)
        z = dictionary.encode(x)
        x_hat = dictionary.decode(z)
    unexplained = (x - x_hat).square().sum() / (x - x.mean(dim=0)).square().sum()
    facts = {
        "shape": f"{dictionary.kind}, {dictionary.d_model} x {dictionary.d_sae}",
        "says": f"L0 {float((z > 0).sum(dim=1).float().mean()):.1f}, FVU {float(unexplained):.3f}",
        "load_s": loaded - started,
        "look_s": time.perf_counter() - loaded,
    }
    return {"x": x.numpy(), "z": z.numpy(), "x_hat": x_hat.numpy()}, facts


def main(spec: dict[str, Any], out: Path) -> None:
    """Look, and write `OUT.npz` and `OUT.json`."""
    arrays, facts = (look_at_model if "family" in spec else look_at_dictionary)(spec)
    np.savez(out.with_suffix(".npz"), **arrays)
    out.with_suffix(".json").write_text(json.dumps({**facts, "peak_gb": peak_gb()}))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
