"""The tiny experiment without some of its stages."""

from __future__ import annotations

import copy
from typing import Any

import tiny_experiment
import yaml

# What has to be left out together with ablation, whose ranking it reads.
WITHOUT_ABLATION = {"ablation": "none", "heads": None, "steering": "None"}


def tiny(**changes: Any) -> dict[str, Any]:
    """Return the tiny experiment's configuration with some sections replaced."""
    return {**yaml.safe_load(tiny_experiment.CONFIG.read_text()), **copy.deepcopy(changes)}


def unfiltered() -> dict[str, Any]:
    """Return the sections of the tiny experiment in which no concept is filtered by words."""
    concepts = {name: {**one, "lexical": False} for name, one in tiny()["concepts"].items()}
    return {"concepts": concepts, "lexical": "NONE"}


def untransferred() -> dict[str, Any]:
    """Return the section `stages` of the tiny experiment without models to which features are transferred."""
    return {"stages": {"grid": tiny()["stages"]["grid"]}}


def everything_left_out() -> dict[str, Any]:
    """Return the tiny experiment's configuration without any stage that can be left out."""
    return tiny(**WITHOUT_ABLATION, **unfiltered(), **untransferred(), evaluation="none")


def shortest() -> dict[str, Any]:
    """Return the least that still runs from activations to a summary: one seed, one layer, few comparisons.

    The world's models are the shipped ones, which have four blocks.
    """
    values = everything_left_out()
    world = values["world"]
    concepts = {name: one for name, one in values["concepts"].items() if name != "counting"}
    comparisons = {name: values["comparisons"][name] for name in ("scratch", "eps_high")}
    kept = ("base", "adapted", "null_text", "scratch", "null_check")
    return values | {
        "experiment": "left_out",
        "seeds": 1,
        "layers": {"evenly": 1},
        "world": {"models": "shipped", "scenes": world["scenes"], "datasets": world["datasets"]},
        "models": {name: {**values["models"][name], "planned": None} for name in ("base_lm", "vlm")},
        "dictionaries": {name: values["dictionaries"][name] for name in kept},
        "diff": values["diff"] | {"untuned": None},
        "comparisons": comparisons,
        "scoreboard": "none",
        "stages": {},
        "concepts": concepts,
    }
