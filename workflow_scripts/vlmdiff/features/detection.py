"""How well a description tells where its feature fires: it is tried on samples it was not made of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vlmdiff.data.identity import shown_by
from vlmdiff.features.contrast import fisher_log_p
from vlmdiff.features.label_samples import FIRES, SILENT

if TYPE_CHECKING:
    from vlmdiff.data.samples import Sample

TEMPLATE = (
    "A feature inside a vision-language model is described as: {description}\n\nHere is a text that the "
    "model reads{shown}:\n{prompt}\n\nDoes the description fit it? Answer with one word, yes or no."
)
YES, NO, UNCLEAR = "yes", "no", "unclear"
FEATURE = ["layer", "feature"]


def question(description: str, prompt: str, has_picture: bool) -> str:
    """Ask whether a description fits a sample."""
    shown = " together with this picture" if has_picture else ""
    return TEMPLATE.format(description=description, prompt=prompt, shown=shown)


def verdict(text: str) -> str:
    """Return yes or no if an answer begins so, or holds one of them alone; else the answer."""
    said = text.lower()
    if first := re.match(r"[\W_]*(yes|no)(?![^\W_])(?!\s*(?:/|or\b))", said):
        return first[1]
    found = set(re.findall(r"(?<![^\W_])(yes|no)(?![^\W_])", said))
    return found.pop() if len(found) == 1 else text


def is_clear(description: str) -> bool:
    """Tell whether a description says anything."""
    return not re.match(r"[\W_]*unclear\s*($|[^\w\s]|_)", description.lower())


def asked_about(
    chosen: pd.DataFrame,
    descriptions: Mapping[tuple[int, int], str],
    samples: Mapping[str, Sample],
    pictured: bool,
) -> pd.DataFrame:
    """Return the samples that are asked about, with `fires`: those of features whose description is clear.

    What reads alike is one question and is asked once. If it fires once and is silent once, no answer could
    be right, and it is not asked. Features that are left with one kind of samples alone tell nothing.

    Args:
        chosen: LABEL_SAMPLES.
        descriptions: by layer and feature.
        samples: by name.
        pictured: whether the questions show pictures.
    """
    clear = {key for key, text in descriptions.items() if is_clear(text)}
    tried = chosen[chosen["use"].isin((FIRES, SILENT))]
    kept = np.array([key in clear for key in zip(tried["layer"], tried["feature"])], dtype=bool)
    tried = tried[kept].sort_values([*FEATURE, "sample_id"], ignore_index=True)
    seen = [seen_of(samples[name], pictured) for name in tried["sample_id"]]
    tried = tried.assign(fires=tried["use"] == FIRES, seen=seen)
    sides = tried.groupby([*FEATURE, "seen"])["fires"].transform("nunique")
    tried = tried[sides == 1].drop_duplicates([*FEATURE, "seen"])
    kinds = tried.groupby(FEATURE)["fires"].transform("nunique")
    return tried[kinds == 2].drop(columns="seen").reset_index(drop=True)


def seen_of(sample: Sample, pictured: bool) -> str:
    """Return what a question shows of a sample: its text, and its picture if that is sent."""
    return f"{sample.prompt}\0{shown_by(sample) if pictured and sample.image else ''}"


def score(detections: pd.DataFrame) -> dict[str, Any]:
    """Return what the answers about one feature's samples come to, with columns of DESCRIPTIONS.

    Whatever is neither yes nor no counts as wrong.

    Args:
        detections: columns fires and answer.
    """
    fires, answer = detections["fires"].to_numpy(bool), detections["answer"]
    hits, alarms = int((fires & (answer == YES)).sum()), int((~fires & (answer != NO)).sum())
    there, silent = int(fires.sum()), int((~fires).sum())
    found: dict[str, Any] = {"hits": hits, "fires": there, "false_alarms": alarms, "silent": silent}
    if not (there and silent):
        return {**found, "balanced_accuracy": np.nan, "detection_p": np.nan}
    cells = (np.array([one]) for one in (hits, there, alarms, silent))
    return {
        **found,
        "balanced_accuracy": (hits / there + 1 - alarms / silent) / 2,
        "detection_p": float(np.exp(fisher_log_p(*cells)[0])),
    }


def scores(detections: pd.DataFrame, features: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the scores of features, in their order; those nothing was asked about have none."""
    own = dict(iter(detections.groupby(FEATURE)))
    for key in zip(features["layer"], features["feature"]):
        yield score(own.get(key, detections.head(0)))
