"""Another valid value for every key of the tiny experiment's configuration."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import tiny_experiment

Path = tuple[str | int, ...]

SCORES = tiny_experiment.submissions()
FEATURES, DIRECTIONS = (SCORES[name]["file"] for name in ("features", "directions"))
# Keys without another value that is valid while all others stay, and why.
NO_OTHER = {
    "diff.base": "dictionaries and null of every comparison start from it",
    "diff.null": "it and the second null change places, see `arranged_changes`",
    "comparisons.*.base": "its null starts from it",
    "comparisons.scratch.rule": "only `energy` allows a dictionary that does not start from the base",
    "stages.grid.*": "its dictionaries start where its edges do",
    **dict.fromkeys(
        (
            f"dictionaries.[!bs]*.{key}"
            for key in (
                "initial",
                "steps",
                "batch_tokens",
                "learning_rate",
                "schedule",
                "warmup",
                "gradient_clip_norm",
                "auxk_coefficient",
                "dead_after_tokens",
                "architecture",
                "decoder",
            )
        ),
        "dictionaries that are compared have one budget: the keys of `base` and `scratch` stand for theirs",
    ),
    "dictionaries.*.sparsity_warmup": "only JumpReLU has a sparsity penalty",
    **dict.fromkeys(
        ("architecture.prefixes", "dictionaries.*.architecture.prefixes"), "only Matryoshka has prefixes"
    ),
    "world.datasets.*_test.scenes": "scenes of the other splits are used before anything is reported",
    "world.datasets.text_val.kind": "text energies are measured on texts",
    "world.datasets.general_val.kind": "the concept `counting` names one of its groups",
    "world.datasets.truth_val.group_by": "the concept `truth` names its groups",
    "world.models": "shipped models are other files: a case of its own",
    "perplexity": "the experiment measures none; tests/unit/test_perplexity.py has its rule",
    "world.real_model": "with it all models and data sets of the world are others, as in another experiment",
    "models.*.family": "a checkpoint tells its family, and another one is refused",
    "models.*.vision_tower": "only the family `llava_original` has a tower of its own",
    "models.*.tiles": "no model of the experiment is of a family that cuts pictures",
    "models.vlm.untuned": "the model under study was tuned",
    **dict.fromkeys(
        ("models.base_lm.untuned", "models.lm_continued.untuned"), "a language model has no frame"
    ),
    **dict.fromkeys(
        ("models.base_lm.path", "models.lm_continued.path"),
        "the world's two language models change places, see `arranged_changes`",
    ),
    "world.controls.lm_continued": "the only control that is a language model",
    "models.vlm_untuned.untuned": "the experiment has one language model",
    "models.vlm_untuned.text_only": "a language model has no frame",
    "data": "all data sets would follow from it; the tutorial's experiment is of its own",
    **dict.fromkeys(
        (f"models.{name}.projector" for name in ("base_lm", "lm_continued", "vlm", "vlm_50", "vlm_shuffled")),
        "only with `untuned`, for which the one of `vlm_untuned` stands",
    ),
    "dictionaries.base.model": "`models.vlm_untuned.untuned` is the same model",
    **dict.fromkeys(
        (
            *(f"dictionaries.{name}.model" for name in ("adapted", "adapted_untuned", "adapted_shuffled")),
            "dictionaries.adapted_50.model",
            "diff.model",
            *(f"comparisons.{name}.model" for name in ("shuffled_images", "tuned_50", "eps_high")),
            *(f"comparisons.{name}.adapted" for name in ("untuned", "shuffled_images", "tuned_50")),
        ),
        "a comparison and its dictionary are of one model: both change at once, see `arranged_changes`",
    ),
    **dict.fromkeys(
        ("concepts.truth.*.groups", "concepts.truth.*.dataset"),
        "true and false are the groups of `truth_val`",
    ),
    **dict.fromkeys(
        ("concepts.counting.*.dataset", "concepts.counting.target.groups"), "only `general_val` counts"
    ),
    "*.method": "a drift has models of its own, which stand for it",
    **dict.fromkeys(("diff.null_model", "comparisons.[!d]*.null_model"), "only a drift reads it"),
    "dictionaries.*.base_model": "those of a rotation read one model",
    **dict.fromkeys(
        ("comparisons.drift.adapted", "comparisons.drift.null"), "nothing is trained for a drift"
    ),
    "comparisons.drift.base_model": "the base dictionary is trained on one model",
    "scoreboard.methods.drift.controls": "the experiment has no further drift",
    "comparisons.drift.model": "the scoreboard holds methods against one model, that of `diff`",
    "concepts.*.contrast": "another contrast has other keys",
    **dict.fromkeys(
        (f"concepts.{name}.{key}" for name in ("grounded", "mirrored") for key in ("unit", "lexical")),
        "samples are what is compared, and texts are the same",
    ),
    "concepts.mirrored.target.dataset": "the changed images are those of `spatial_val`",
    "concepts.mirrored.transformed": "of two changed data sets the other is `against`, which stands for both",
    "datasets.*.kind": "another kind has other keys",
    "datasets.*.of": "the changed images are those of the concept `mirrored`",
    **dict.fromkeys(
        ("datasets.*.scored", "datasets.*.images"), "changed images have no answers, and are images"
    ),
    **dict.fromkeys(
        (
            *(f"datasets.spatial_mirrored.transform.{key}" for key in ("hue", "brightness", "mask")),
            *(f"datasets.spatial_turned.transform.{key}" for key in ("mirror", "brightness", "mask")),
        ),
        "an image is changed in one way",
    ),
    **dict.fromkeys(
        ("comparisons.untuned.target", "comparisons.untuned.model"),
        "`diff.untuned` is a comparison of the default target and of a model that was never tuned",
    ),
}
# The first pattern that fits a key gives its other value: one value, or by the value that the key has.
OTHER: dict[str, Any] = {
    "ablation.chosen": FEATURES,
    "experiment": "tiny_other",
    "layers": [0],
    "datasets.*.part": "train",
    "datasets.*.groups": ["left of", "right of"],
    "datasets.*.without": ["above"],
    "datasets.*.samples": 100,
    "datasets.*.text_tokens": 30,
    "datasets.*.transform.mirror": "top_bottom",
    "datasets.*.transform.hue": 0.25,
    "resources": {"train_dictionary": {"mem_mb": 3000, "runtime": 90}},
    "models.*.path": "world:vlm_25",
    "models.*.planned.blocks": 2,
    "models.*.prompt_date": "2025-01-01",
    "models.*.dtype": "bfloat16",
    "models.*.attention": "eager",
    "models.*.device_map": "auto",
    "models.*.untuned": "base_lm",
    "models.*.projector": "tuned",
    "models.*.planned": {"d_model": 32, "image_tokens": 16},
    "extraction.store": "temporary",
    "extraction.layers_at_once": 1,
    "extraction.storage": "bfloat16",
    "architecture.kind": "jumprelu",
    "dictionaries.*.architecture.kind": "jumprelu",
    "*architecture.reconstruction": "mse",
    "dictionaries.*.schedule": "constant",
    "dictionaries.*.gradient_clip_norm": 1.0,
    "dictionaries.*.auxk_coefficient": 0.5,
    "dictionaries.*.dead_after_tokens": 5000,
    "architecture.d_sae": 128,
    "dictionaries.scratch.architecture.d_sae": 128,
    "dictionaries.base.initial": "scratch",
    "dictionaries.scratch.initial": "base",
    "dictionaries.null_*.model": "vlm_untuned",
    "dictionaries.*.model": {
        "base_lm": "vlm",
        "vlm": "vlm_50",
        "vlm_50": "vlm",
        "vlm_shuffled": "vlm",
        "vlm_untuned": "vlm",
    },
    "dictionaries.*.dataset": "text_val",
    "dictionaries.*.tokens": ["text", "image"],
    "dictionaries.*.architecture": {"d_sae": 64, "k": 3},
    "dictionaries.*.snapshots": [25],
    "dictionaries.*.precision": "fp32",
    "evaluation.*.dictionaries": {"base": ["base"], "scratch": ["adapted"]},
    "evaluation.*.model": {"base_lm": "vlm", "vlm": "base_lm"},
    "evaluation.*.dataset": "spatial_val",
    "evaluation.*.seeds": {None: 1, 1: 2},
    "evaluation.*.tokens": ["text"],
    "diff.adapted": "model_first",
    "diff.null_check": None,
    "diff.untuned": None,
    "diff.model": "vlm_50",
    "*.visual_datasets": ["general_val"],
    "*.text_datasets": ["text_val", "text_null"],
    "diff.rule": "calibrated",
    "diff.sweep_eps": [0.5],
    "diff.sweep_percentiles": [33.0],
    "comparisons.scratch.target": "sensitivity",
    "comparisons.*.target": "all",
    "comparisons.*.adapted": {None: "model_first", "scratch": "adapted", "*": "adapted"},
    "comparisons.*.null": "null_check",
    "comparisons.drift.null_model": "vlm_untuned",
    "diff.base_model": "lm_continued",
    "comparisons.*.base_model": "base_lm",
    "scoreboard.methods.*.comparison": "scratch",
    "scoreboard.methods.rotation.controls": ["untuned"],
    "scoreboard.concepts": ["mirrored"],
    "scoreboard.submissions.features.file": DIRECTIONS,
    "scoreboard.submissions.directions.file": FEATURES,
    "scoreboard.submissions.features.controls.*": DIRECTIONS,
    "scoreboard.submissions.directions.controls": {"shuffled_images": FEATURES},
    "scoreboard.submissions.features.seconds": 2.0,
    "dictionaries.*.decoder": "frozen",
    "comparisons.*.model": {None: "vlm_50", "*": "vlm"},
    "comparisons.*.eps": 0.05,
    "comparisons.*.percentile": 50.0,
    "comparisons.*.null_quantile": 0.1,
    "comparisons.*.rule": {None: "calibrated", "*": "percentile"},
    "comparisons.*.min_odds_ratio": 2.0,
    "comparisons.*.min_frequency_difference": 0.1,
    "stages.models": ["base_lm", "vlm"],
    "concepts.spatial.target.dataset": "truth_val",
    "concepts.spatial.baseline.dataset": "text_val",
    "concepts.spatial.target.groups": ["left of"],
    "concepts.spatial.target.without": ["left of"],
    "concepts.grounded.target.dataset": "truth_val",
    "concepts.grounded.target.groups": ["left of"],
    "concepts.grounded.target.without": ["left of"],
    "concepts.mirrored.target.groups": ["left of"],
    "concepts.mirrored.target.without": ["left of"],
    "concepts.mirrored.against": None,
    "concepts.*.label": "label",
    "concepts.*.strata": "relation",
    "concepts.*.within": None,
    "concepts.truth.target.without": ["false"],
    "concepts.truth.baseline.without": ["true"],
    "concepts.counting.baseline.without": ["count", "colour"],
    "concepts.*.groups": ["colour"],
    "concepts.*.without": ["colour"],
    "concepts.*.unit": "sample",
    "concepts.*.words": ["left"],
    "concepts.*.compared": ["stages"],
    "lexical.prompts": ["what is in the image ?"],
    "lexical.variant": "strict",
    "ablation.concepts": ["spatial", "counting"],
    "ablation.scopes": ["all_layers", "own_layer"],
    "*.rank_on.target": "truth_val",
    "*.rank_on.control": "truth_val",
    "*.report_on.target": "truth_test",
    "*.report_on.control": "truth_test",
    "held_out.shared_images": "keep",
    "ablation.set_sizes": [2],
    "ablation.headline.scope": "own_layer",
    "ablation.headline.measure": "accuracy",
    "ablation.selection_sizes": [2],
    "heads.concepts": ["counting"],
    "heads.dataset": "general_val",
    "heads.head_means.dataset": "spatial_val",
    "heads.exact_heads": 2,
    "heads.ablate_sizes": [1, 2],
    "steering.concepts": ["counting"],
    "steering.model": "vlm",
    "steering.strengths": [-0.25, 0.25],
    "explorer.comparisons": ["tuned_50"],
    "labelling.base_url": "http://localhost:1/v1",
    "labelling.api_key_env": "A_KEY",
    "labelling.template": "What is it? {evidence}",
    "labelling.price_*": 2.0,
    "world.weights_dtype": "float32",
    "world.scenes.*": 450,
    "world.language_model.d_model": 64,
    "world.language_model.heads": 4,
    "world.vision.d_vision": 64,
    "world.vision.heads": 4,
    "world.controls.*": {
        "continued_text": "shuffled_images",
        "shuffled_images": "no_spatial",
        "no_spatial": "shuffled_images",
    },
    "world.datasets.text_*.seed": 7,
    "world.datasets.*.kind": {
        "spatial": "general",
        "general": "spatial",
        "mixed": "general",
        "text": "mixed",
    },
    "world.datasets.*.scenes": {"train": "validation", "validation": "train"},
    "world.datasets.*.samples": {60: 80, 120: 160, 150: 200, 300: 320},
    "world.datasets.*.group_by": {"kind": "answer", "answer": "kind"},
}


def dotted(path: Path) -> str:
    """Write a key as people do."""
    return ".".join(map(str, path))


def leaves(values: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield every key that holds no section, with its value; lists of plain values are values."""
    sections = isinstance(values, list) and values and isinstance(values[0], dict)
    if not sections and not (isinstance(values, dict) and values):
        yield path, values
        return
    for key, value in enumerate(values) if sections else values.items():
        yield from leaves(value, (*path, key))


def first_fit(key: str, table: dict[str, Any]) -> str | None:
    """Return the first pattern of a table that fits a key."""
    return next((pattern for pattern in table if fnmatchcase(key, pattern)), None)


def other_value(path: Path, value: Any) -> Any:
    """Return another value of a key: from the table, else the nearest other number, switch or text."""
    pattern = first_fit(dotted(path), OTHER)
    if pattern is not None:
        found = OTHER[pattern]
        known = value[0] if isinstance(value, list) and value else value
        by_value = (
            isinstance(found, dict) and not isinstance(known, dict) and (known in found or "*" in found)
        )
        return found.get(known, found.get("*")) if by_value else found
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.5
    if isinstance(value, str):
        return f"{value}_other"
    raise AssertionError(f"{dotted(path)}: add another value than {value!r} to OTHER, or to NO_OTHER why not")


def with_value(values: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """Return a copy of a configuration in which one key has another value."""
    changed = copy.deepcopy(values)
    section: Any = changed
    for key in path[:-1]:
        section = section[key] if isinstance(section, list) else section.setdefault(key, {})
    section[path[-1]] = value
    return changed
