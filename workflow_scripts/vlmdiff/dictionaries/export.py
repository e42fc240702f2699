"""Write a dictionary for SAELens where its own folder says what SAELens has no words for."""

from __future__ import annotations

import json
from pathlib import Path

from vlmdiff.dictionaries.files import config_values, is_own, load_dictionary, tensors
from vlmdiff.dictionaries.source import PublishedSource
from vlmdiff.dictionaries.weights import CONFIG, WEIGHTS, DictionaryError, load_config_file
from vlmdiff.runtime.files import replacing


def export_dictionary(source: str | Path | PublishedSource, folder: str | Path) -> None:
    """Write a dictionary so that `SAE.load_from_disk` gives the same choice and reconstructions.

    A TopK dictionary's divisor becomes the norms of the decoder's rows: SAELens' activations are then ours
    divided by it. All others have SAELens' layout already and stay as they are.

    Args:
        source: as for `load_dictionary`.
        folder: receives `cfg.json` and `sae_weights.safetensors`; made if missing.

    Raises:
        DictionaryError: the dictionary cannot be read, lies in `folder`, or lets negative activations pass.
    """
    from safetensors.torch import save_file

    if lies_in(source, Path(folder)):
        raise DictionaryError(
            f"{folder} is where the dictionary itself lies, and an export would replace it: name another"
        )
    dictionary = load_dictionary(source)
    if dictionary.kind == "jumprelu" and dictionary.below_zero is not None:
        raise DictionaryError(
            f"{source}: thresholds below zero let negative activations pass, and SAELens applies a ReLU "
            "before its gate: no weights there do the same"
        )
    weights = tensors(dictionary)
    if (divisor := weights.pop("divisor", None)) is not None:
        weights["W_dec"].mul_(divisor[:, None])
    values = config_values(dictionary, metadata_of(source))
    # Where SAELens itself writes it, so that rows of other norms are not taken for this project's.
    values["metadata"] |= {"sae_lens_version": values.pop("sae_lens_version")}
    with replacing(Path(folder) / WEIGHTS) as temporary:
        save_file(weights, temporary)
    with replacing(Path(folder) / CONFIG) as temporary:
        temporary.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def lies_in(source: str | Path | PublishedSource, folder: Path) -> bool:
    """Whether a dictionary's own files are in a folder."""
    path = Path(source.path if isinstance(source, PublishedSource) else source)
    home = path.parent if path.is_file() else path
    return home.resolve() == folder.resolve()


def metadata_of(source: str | Path | PublishedSource) -> dict[str, object]:
    """Return what a folder of this project notes in `cfg.json`; nothing of other sources."""
    if isinstance(source, PublishedSource) or not (Path(source) / CONFIG).is_file() or not is_own(source):
        return {}
    return dict(load_config_file(source).get("metadata", {}))
