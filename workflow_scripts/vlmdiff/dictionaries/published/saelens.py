"""SAELens: a folder with `cfg.json` and `sae_weights.safetensors` of any version, or a release and an id."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vlmdiff.dictionaries.published.content import (
    NAMES,
    Found,
    check_sizes,
    chosen_scale,
    count,
    filled,
    flag,
    needed,
    number,
    read_json,
    read_safetensors,
    remedy,
    widened,
)
from vlmdiff.dictionaries.published.place import place_in
from vlmdiff.dictionaries.source import RELEASE, SCALER, PublishedSource
from vlmdiff.dictionaries.weights import CONFIG, SIGNED, WEIGHTS, DictionaryError

# Architectures that have an equal here, each with the tensors that it alone has.
OWN_TENSORS = {"standard": (), "topk": ("divisor",), "jumprelu": ("threshold", SIGNED)}
FACTORS = ("scaling_factor", "finetuning_scaling_factor")
NOT_FOLDED = {
    "constant_norm_rescale": "every token is divided by its own norm",
    "layer_norm": "every token is centred and divided by its own spread",
    "covariance_whitening": "the whitening matrix is not part of the file; save the folded SAE with SAELens",
}


def read(source: PublishedSource) -> Found:
    """Read a folder, or what the sae_lens package loads for `saelens:RELEASE/ID`.

    Raises:
        DictionaryError: a file is missing or damaged, or what it describes has no equal here.
    """
    text = str(source.path)
    if text.startswith(RELEASE):
        config, tensors = read_release(text.removeprefix(RELEASE))
        return found(config, tensors, source, Path(text))
    folder = Path(source.path)
    config, tensors = read_json(folder / CONFIG), read_safetensors(folder / WEIGHTS)
    return found(config, tensors, source, folder)


def found(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], source: PublishedSource, path: Path
) -> Found:
    """Put configuration and tensors together.

    Raises:
        DictionaryError: what they describe has no equal here.
    """
    architecture = architecture_of(config, path)
    place = place_in(config, path)
    reshaped = "hook_z" if "hook_z" in str(place.names) else "none"
    if config.get("reshape_activations", reshaped) != "none":
        raise DictionaryError(f"{path}: acts on outputs of heads (hook_z), not on a residual stream")
    weights = weights_of(architecture, tensors, path)
    check_sizes(config, {"d_in": "d_model", "d_out": "d_model", "d_sae": "d_sae"}, weights, path)
    by_norm = flag(config, "rescale_acts_by_decoder_norm", False, path)
    if by_norm and architecture != "topk":
        raise DictionaryError(
            f"{path}: rescale_acts_by_decoder_norm is true for '{architecture}'; only TopK knows it"
        )
    return Found(
        weights,
        k_of(config, path, weights["b_enc"].numel()) if architecture == "topk" else None,
        flag(config, "apply_b_dec_to_input", True, path),
        input_scale(config, source, path),
        by_norm,
        place,
        section(config, "metadata", path).get("model_name") or config.get("model_name"),
        tells_norm=(config.get("normalize_activations") or "none") != "none" and (path / SCALER).is_file(),
    )


def weights_of(architecture: str, tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the weights of an architecture in float32.

    Raises:
        DictionaryError: there are too few or too many tensors, or a shape or value is wrong.
    """
    needed(tensors, NAMES, path)
    unknown = sorted(set(tensors) - {*NAMES, *FACTORS, *OWN_TENSORS[architecture]})
    if unknown:
        raise DictionaryError(
            f"{path}: holds {unknown}, which a '{architecture}' dictionary does not have; correct "
            f"`architecture` in {CONFIG}, or download the file again"
        )
    check_scaling_factor(tensors, path)
    weights = {name: tensors[name] for name in NAMES}
    if architecture == "topk" and "divisor" in tensors:
        weights["divisor"] = tensors["divisor"]
    if architecture == "jumprelu":
        needed(tensors, () if SIGNED in tensors else ("threshold",), path)
        # SAELens applies a ReLU too, so that a negative threshold acts as zero does.
        weights["threshold"] = tensors[SIGNED] if SIGNED in tensors else tensors["threshold"].clamp(min=0)
    weights = widened(weights, path)
    if architecture == "standard":
        weights["threshold"] = filled(0.0, weights["b_enc"])
    return weights


def architecture_of(config: Mapping[str, Any], path: Path) -> str:
    """Return the architecture; before version 6 TopK was a standard one with another activation.

    Raises:
        DictionaryError: it is another one.
    """
    architecture = config.get("architecture", "standard")
    activation = config.get("activation_fn", config.get("activation_fn_str", "relu"))
    if architecture == "standard" and activation == "topk":
        return "topk"
    if str(architecture) not in OWN_TENSORS or (architecture == "standard" and activation != "relu"):
        raise DictionaryError(
            f"{path}: architecture '{architecture}' with activation '{activation}' has no equal here; "
            f"known are {list(OWN_TENSORS)} with relu or topk. BatchTopK dictionaries are JumpReLU ones "
            "once SAELens saved them for inference"
        )
    return architecture


def section(config: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    """Return a part of a configuration, empty if it is left out.

    Raises:
        DictionaryError: it is not an object.
    """
    found = config.get(name) or {}
    if not isinstance(found, Mapping):
        raise DictionaryError(f"{path}: {name} is {found!r}, expected an object. {remedy()}")
    return found


def k_of(config: Mapping[str, Any], path: Path, features: int) -> int:
    """Return the active features a token.

    Raises:
        DictionaryError: no key tells, or it is no number from 1 to the number of features.
    """
    options = section(config, "activation_fn_kwargs", path)
    told = [value for value in (config.get("k"), options.get("k")) if value]
    if not told or told[0] != told[-1]:
        raise DictionaryError(f"{path}: {CONFIG} of a TopK dictionary lacks `k`, or tells {told}. {remedy()}")
    if str(options.get("postact_fn", "relu")).lower().rstrip("()") not in ("relu", "torch.nn.relu"):
        raise DictionaryError(f"{path}: postact_fn is {options['postact_fn']!r}; only ReLU has an equal here")
    return count(told[0], "k", path, features)


def check_scaling_factor(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse factors that an old fine-tuning put on activations; SAELens itself reads them no more.

    Raises:
        DictionaryError: there are some other than 1.
    """
    for name in FACTORS:
        if name in tensors and not bool((tensors[name].float() - 1).abs().max() < 1e-5):
            raise DictionaryError(f"{path}: {name} holds other values than 1, which have no equal here")


def input_scale(config: Mapping[str, Any], source: PublishedSource, path: Path) -> float:
    """Return the factor on the residual stream that the weights expect.

    Raises:
        DictionaryError: the normalisation does not fold into weights, or its factor is unknown.
    """
    mode = config.get("normalize_activations") or "none"
    if mode == "none":
        told = 1.0 if "normalize_activations" in config else None
        return chosen_scale(told, source.input_scale, path)
    if mode not in (True, "expected_average_only_in"):
        reason = NOT_FOLDED.get(str(mode), "it is not known here")
        raise DictionaryError(
            f"{path}: normalize_activations is '{mode}' and does not fold into weights: {reason}"
        )
    scaler = path / SCALER
    factor = read_json(scaler).get("scaling_factor") if scaler.is_file() else None
    if factor is None and source.input_scale is None:
        raise DictionaryError(
            f"{path}: normalize_activations is 'expected_average_only_in', but no {SCALER} beside it tells "
            "the factor; give `input_scale` (sqrt(d_model) / average norm of the residual stream)"
        )
    told = None if factor is None else number(factor, f"scaling_factor in {SCALER}", path, positive=True)
    return chosen_scale(told, source.input_scale, path)


def read_release(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Let the sae_lens package load a release's dictionary, from its cache or the hub.

    Args:
        name: `RELEASE/ID`, where RELEASE is one of SAELens' own or a repository `OWNER/NAME`.

    Raises:
        DictionaryError: the package is not installed, knows no such dictionary or cannot get it.
    """
    try:
        from sae_lens import SAE
        from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
    except ImportError as error:
        raise DictionaryError(
            f"{RELEASE}{name}: needs the package sae-lens ({error}); run `pip install sae-lens`, or name the "
            "repository's own format and files in the config"
        ) from error
    from huggingface_hub.errors import HfHubHTTPError

    parts = name.split("/")
    length = 1 if parts[0] in get_pretrained_saes_directory() else 2
    release, identifier = "/".join(parts[:length]), "/".join(parts[length:])
    try:
        sae = SAE.from_pretrained(release, identifier, device="cpu", dtype="float32")
    except (HfHubHTTPError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise DictionaryError(
            f"{RELEASE}{name}: sae_lens cannot load id '{identifier}' of release '{release}' "
            f"({type(error).__name__}: {error}). Check the name, the network and HF_HUB_OFFLINE; offline, it "
            "has to be in the Hugging Face cache already"
        ) from error
    return sae.cfg.to_dict(), dict(sae.state_dict())
