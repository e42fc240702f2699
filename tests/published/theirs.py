"""The same look by transformers' and sae-lens' own classes: `python -m published.theirs SPEC OUT`.

Nothing of this project is used, so that both sides can only agree if both are right.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from published.probe import QUESTION, peak_gb, picture

# What a family leaves out of a published processor's ways to read a picture.
AS_ONE_TILE = {"idefics3": {"do_image_splitting": False}, "internvl": {"crop_to_patches": False}}


def look_at_model(spec: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return token ids and next logits of transformers' processor and model for question and picture."""
    import torch
    import transformers

    folder = spec["folder"]
    sees = spec["family"] != "causal_lm"
    model = transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
    loaded = model.from_pretrained(
        folder, dtype=getattr(torch, spec["dtype"]), attn_implementation="eager", local_files_only=True
    ).eval()
    if torch.cuda.is_available():
        loaded.to("cuda")
    inputs = inputs_of(folder, spec["family"]) if sees else text_inputs(folder)
    inputs = inputs.to(loaded.device)
    floats = {name: one.to(loaded.dtype) for name, one in inputs.items() if one.is_floating_point()}
    with torch.inference_mode():
        logits = loaded(**{**inputs, **floats}).logits[0, -1].float().cpu()
    return {"ids": inputs["input_ids"][0].cpu().numpy(), "logits": logits.numpy()}


def text_inputs(folder: str) -> Any:
    """Return what the published tokenizer makes of the question: a turn if it has a template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not tokenizer.chat_template:
        return tokenizer([QUESTION], return_tensors="pt")
    turn = [{"role": "user", "content": QUESTION}]
    return tokenizer.apply_chat_template(
        turn, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


def inputs_of(folder: str, family: str) -> Any:
    """Return what the published processor makes of the question and the picture, which PIL resizes."""
    from transformers import AutoImageProcessor, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    # This project's environment has no torchvision, whose resized pictures differ a little.
    processor.image_processor = AutoImageProcessor.from_pretrained(
        folder, local_files_only=True, backend="pil"
    )
    settings = AS_ONE_TILE.get(family, {})
    if not processor.chat_template:
        return processor(text=[QUESTION], images=[picture()], return_tensors="pt", **settings)
    content = [{"type": "image", "image": picture()}, {"type": "text", "text": QUESTION}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=settings,
    )


def look_at_dictionary(spec: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return sae-lens' activations, in units of unit decoder rows, and reconstructions of residuals."""
    import torch
    from sae_lens import SAE

    if spec["release"] is None:
        sae = SAE.load_from_disk(spec["path"], dtype="float32")
    else:
        release, _, name = spec["release"].partition("/")
        sae = SAE.from_pretrained(release, name).to(dtype=torch.float32)
    x = torch.from_numpy(np.load(spec["residuals"])["x"])
    with torch.no_grad():
        found = sae.encode(x)
        rescaled = getattr(sae.cfg, "rescale_acts_by_decoder_norm", False)
        norms = torch.ones(len(sae.W_dec)) if rescaled else sae.W_dec.norm(dim=1)
        return {"z": (found * norms).numpy(), "x_hat": sae.decode(found).numpy()}


def main(spec: dict[str, Any], out: Path) -> None:
    """Look, and write `OUT.npz` and `OUT.json`."""
    arrays = (look_at_model if "family" in spec else look_at_dictionary)(spec)
    np.savez(out.with_suffix(".npz"), **arrays)
    out.with_suffix(".json").write_text(json.dumps({"peak_gb": peak_gb()}))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
