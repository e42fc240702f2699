"""Small dictionaries in the layouts in which others publish theirs, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

D_MODEL, D_SAE, K = 16, 96, 6


def random_weights(seed: int = 0, unit_rows: bool = False) -> dict[str, Tensor]:
    """Return float32 weights; decoder rows have norms between about 0.3 and 3, or 1."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    rows = draw(D_SAE, D_MODEL)
    rows /= rows.norm(dim=1, keepdim=True)
    if not unit_rows:
        rows *= draw(D_SAE, 1).mul(0.5).exp()
    return {
        "W_enc": draw(D_MODEL, D_SAE) * 0.4,
        "b_enc": draw(D_SAE) * 0.3,
        "W_dec": rows,
        "b_dec": draw(D_MODEL) * 0.5,
        "threshold": draw(D_SAE).abs() * 0.8,
    }


def tokens(n: int = 200, scale: float = 1.0, seed: int = 1) -> Tensor:
    """Return residuals `(n, D_MODEL)` with a mean that is not zero."""
    return scale * (torch.randn(n, D_MODEL, generator=torch.Generator().manual_seed(seed)) + 0.5)


# The keys of a published file of Llama Scope, those aside that only its training read.
LLAMA_SCOPE = {
    "hook_point_in": "blocks.3.hook_resid_post",
    "hook_point_out": "blocks.3.hook_resid_post",
    "use_decoder_bias": True,
    "apply_decoder_bias_to_pre_encoder": False,
    "expansion_factor": D_SAE // D_MODEL,
    "d_model": D_MODEL,
    "d_sae": D_SAE,
    "act_fn": "jumprelu",
    "jump_relu_threshold": 0.33,
    "norm_activation": "dataset-wise",
    "dataset_average_activation_norm": {"in": 10.8125, "out": 10.8125},
    "decoder_exactly_fixed_norm": False,
    "sparsity_include_decoder_norm": True,
    "use_glu_encoder": False,
    "top_k": K,
    "dtype": "torch.bfloat16",
}


def write_llama_scope(
    folder: Path, weights: dict[str, Tensor], dtype: torch.dtype = torch.bfloat16, **changes: Any
) -> Path:
    """Write one layer's folder, `Llama3_1-8B-Base-L{l}R-8x` on the hub."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "hyperparams.json").write_text(json.dumps({**LLAMA_SCOPE, **changes}))
    (folder / "lm_config.json").write_text(json.dumps({"model_name": "meta-llama/Llama-3.1-8B"}))
    tensors = {
        "encoder.weight": weights["W_enc"].T,
        "encoder.bias": weights["b_enc"],
        "decoder.weight": weights["W_dec"].T,
        "decoder.bias": weights["b_dec"],
    }
    save_file(
        {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()},
        folder / "checkpoints" / "final.safetensors",
    )
    return folder


def write_gemma_scope(folder: Path, weights: dict[str, Tensor]) -> Path:
    """Write one layer's folder, `layer_{l}/width_16k/average_l0_{n}` on the hub."""
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **{name: tensor.numpy() for name, tensor in weights.items()})
    return folder


def write_gemma_scope_2(folder: Path, weights: dict[str, Tensor], config: dict | None = None) -> Path:
    """Write one layer's folder, `resid_post_all/layer_{l}_width_16k_l0_small` on the hub."""
    folder.mkdir(parents=True)
    named = {name.replace("W_", "w_"): tensor.contiguous() for name, tensor in weights.items()}
    save_file(named, folder / "params.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_qwen_scope(path: Path, weights: dict[str, Tensor]) -> Path:
    """Write one layer's file, `layer{l}.sae.pt` on the hub: matrices as linear layers have them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ("W_enc", "W_dec", "b_enc", "b_dec")
    lying = {name: weights[name].T if name.startswith("W_") else weights[name] for name in names}
    torch.save({name: tensor.contiguous() for name, tensor in lying.items()}, path)
    return path


def write_mmdiff(path: Path, weights: dict[str, Tensor]) -> Path:
    """Write one layer's file, `text-only_layer_{l}.pt` on the hub."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(weights, path)
    return path


def crosscoder_state(seed: int = 0, norm: int | None = 1, spread: bool = True) -> dict[str, Tensor]:
    """Return the state of a BatchTopK crosscoder of two models, in the published layout.

    Args:
        seed: of the random weights.
        norm: number of the norm by which features count; None as in old files, which do not tell.
        spread: with a mean and a scale of activations.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    deviations = draw(2, D_MODEL).abs() + 0.5
    state = {
        "encoder.weight": 0.3 * draw(2, D_MODEL, D_SAE),
        "encoder.bias": 0.2 * draw(D_SAE),
        "decoder.weight": 0.3 * draw(2, D_SAE, D_MODEL),
        "decoder.bias": 0.1 * draw(2, D_MODEL),
        "k": torch.tensor(K),
        "threshold": torch.tensor(1.5),
        "activation_mean": draw(2, D_MODEL) if spread else torch.full((2, D_MODEL), torch.nan),
        "activation_std": deviations if spread else torch.full((2, D_MODEL), torch.nan),
        "target_rms": torch.tensor(2.0),
        "activation_global_scale": 2.0 / deviations.square().sum().sqrt() if spread else torch.tensor(1.0),
    }
    return state | ({} if norm is None else {"code_normalization_id": torch.tensor(norm)})


def write_sparsify(
    folder: Path, weights: dict[str, Tensor], dtype: torch.dtype = torch.float32, **changes: Any
) -> Path:
    """Write one hook point's folder, `layers.{l}` on the hub; changes that are None are left out."""
    folder.mkdir(parents=True)
    config = {
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": D_SAE,
        "k": K,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": D_MODEL,
        **changes,
    }
    told = {name: value for name, value in config.items() if value is not None}
    (folder / "cfg.json").write_text(json.dumps(told))
    tensors = {
        "encoder.weight": weights["W_enc"].T,
        "encoder.bias": weights["b_enc"],
        "W_dec": weights["W_dec"],
        "b_dec": weights["b_dec"],
    }
    save_file({name: one.to(dtype).contiguous() for name, one in tensors.items()}, folder / "sae.safetensors")
    return folder


OPENMOSS = {
    "sae_type": "sae",
    "hook_point_in": "blocks.3.hook_resid_post",
    "hook_point_out": "blocks.3.hook_resid_post",
    "d_model": D_MODEL,
    "expansion_factor": D_SAE / D_MODEL,
    "act_fn": "jumprelu",
    "norm_activation": "dataset-wise",
    "sparsity_include_decoder_norm": True,
    "use_decoder_bias": True,
    "use_glu_encoder": False,
    "top_k": K,
}
OPENMOSS_NORM = 10.8125


def write_openmoss(
    folder: Path, weights: dict[str, Tensor], more: dict[str, Tensor] | None = None, **changes: Any
) -> Path:
    """Write one layer's folder as llamascopium does; `more` are further tensors."""
    folder.mkdir(parents=True)
    config = {**OPENMOSS, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {"W_E": weights["W_enc"], "b_E": weights["b_enc"], "W_D": weights["W_dec"]}
    tensors |= {"b_D": weights["b_dec"]} if config["use_decoder_bias"] else {}
    if config["act_fn"] == "jumprelu":
        tensors["activation_function.log_jumprelu_threshold"] = weights["threshold"].log()
    for side in ("hook_point_in", "hook_point_out"):
        tensors[f"dataset_average_activation_norm.{config[side]}"] = torch.tensor(OPENMOSS_NORM)
    tensors |= more or {}
    save_file({name: one.contiguous() for name, one in tensors.items()}, folder / "sae_weights.safetensors")
    return folder


# Classes of dictionary_learning, each with what it calls the decoder's bias.
LEARNT = {
    "AutoEncoder": "bias",
    "AutoEncoderNew": "decoder.bias",
    "AutoEncoderTopK": "b_dec",
    "BatchTopKSAE": "b_dec",
    "MatryoshkaBatchTopKSAE": "b_dec",
    "JumpReluAutoEncoder": "b_dec",
}
LEARNT_THRESHOLD = 1.25


def learnt_state(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the state of a class of dictionary_learning."""
    upright = name in ("MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder")
    names = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}
    state = {
        one if upright else names[one]: weights[one].T.contiguous()
        if one.startswith("W_") and not upright
        else weights[one]
        for one in names
    }
    state[LEARNT[name]] = weights["b_dec"]
    if name == "JumpReluAutoEncoder":
        return state | {"threshold": weights["threshold"]}
    if "TopK" in name:
        told = -1.0 if name == "AutoEncoderTopK" else LEARNT_THRESHOLD
        state |= {"k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(told)}
    if name == "MatryoshkaBatchTopKSAE":
        state["group_sizes"] = torch.tensor([D_SAE // 4, D_SAE - D_SAE // 4])
    return state


def write_dictionary_learning(
    folder: Path,
    weights: dict[str, Tensor],
    name: str,
    state: dict[str, Tensor] | None = None,
    **changes: Any,
) -> Path:
    """Write one trainer's folder, `resid_post_layer_{l}/trainer_{n}` on the hub."""
    folder.mkdir(parents=True)
    trainer = {
        "dict_class": name,
        "activation_dim": D_MODEL,
        "dict_size": D_SAE,
        "layer": 3,
        "lm_name": "EleutherAI/pythia-160m-deduped",
        "submodule_name": "resid_post_layer_3",
        **({"k": K} if "TopK" in name else {}),
        **changes,
    }
    config = {"trainer": trainer, "buffer": {"d_submodule": D_MODEL, "io": "out", "ctx_len": 128}}
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(learnt_state(weights, name) if state is None else state, folder / "ae.pt")
    return folder


def write_saelens(folder: Path, weights: dict[str, Tensor], config: dict[str, Any]) -> Path:
    """Write a folder in SAELens' layout with a configuration of any version."""
    folder.mkdir(parents=True)
    save_file(weights, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"d_in": D_MODEL, "d_sae": D_SAE, **config}))
    return folder


def write_hub_cache(
    cache: Path, repository: str, files: dict[str, Path], commit: str = "a" * 40, kind: str = "model"
) -> None:
    """Lay files out as huggingface_hub's cache has them after a download of `main`.

    Args:
        cache: folder that HF_HUB_CACHE names.
        repository: `owner/name` of a model.
        files: where each path of the repository is copied from.
        commit: what `main` is.
        kind: model or dataset.
    """
    root = cache / f"{kind}s--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    for name, source in files.items():
        target = root / "snapshots" / commit / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
