"""Tables of an experiment that the explorer shows: random numbers, words that could break a page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from vlmdiff.explorer.columns import ConceptTables, OtherComparison
from vlmdiff.explorer.details import DetailTables
from vlmdiff.explorer.effects import EffectTables
from vlmdiff.explorer.facts import FactTables
from vlmdiff.explorer.looks import LookTables
from vlmdiff.explorer.write import write_explorer
from vlmdiff.tables.causal import ABLATION, HEAD_ATTENTION, HEAD_ATTRIBUTION, RANKING, STEERING
from vlmdiff.tables.explorer import (
    EXAMPLE_ACTIVATIONS,
    EXAMPLE_BINS,
    EXAMPLE_NEIGHBOURS,
    EXAMPLE_TOKENS,
    EXAMPLES,
)
from vlmdiff.tables.features import ADAPTED, CONTRAST, FINAL_FEATURES, LEXICAL, RECURRENCE, THRESHOLDS
from vlmdiff.tables.io import write_table
from vlmdiff.tables.labels import LABEL_EVIDENCE, LABELS
from vlmdiff.tables.world import GROUND_TRUTH

CONCEPT = "space"
LIMITS = {"odds": 3.0, "difference": 0.005, "log_p": -1.25, "pairs": 0.25}
NASTY = (
    "</script><script>window.broken = true</script>",
    "<img src=x onerror='window.broken = true'>",
    "\"quotes\" & 'more'",
    "漢字 ひらがな 한글",
    "line\u2028break\u2029and\nmore",
    "word " * 1000,
)
BLANK = {"string": "", "int64": 0, "bool": False, "double": float("nan")}


def keep(path: Path, schema: pa.Schema, **columns) -> str:
    """Write a table of the contract; columns that are not told are blank."""
    size = max(map(len, columns.values()), default=0)
    rows = {field.name: np.full(size, BLANK[str(field.type)], dtype=object) for field in schema}
    frame = pd.DataFrame({**rows, **columns}, columns=schema.names)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(frame, schema, path)
    return str(path)


def places(layers: int, features: int) -> dict[str, np.ndarray]:
    """Return layer and feature of every row."""
    return {
        "layer": np.repeat(np.arange(layers), features),
        "feature": np.tile(np.arange(features), layers),
    }


def write_features(
    folder: Path, layers: int, features: int
) -> tuple[str, dict[str, ConceptTables], list[str]]:
    """Write tables of every feature; return `adapted`, `concepts` and `truth` of `write_explorer`."""
    generator, index = np.random.default_rng(0), places(layers, features)
    size = layers * features
    similarity = 1 - generator.exponential(0.02, size)
    similarity[::7] = np.nan
    adapted = keep(
        folder / "adapted.parquet",
        ADAPTED,
        **index,
        similarity=similarity,
        null_similarity=1 - generator.exponential(0.001, size),
        calibrated=generator.random(size) < 0.9,
        visual_energy=generator.lognormal(0, 3, size) * (generator.random(size) < 0.8),
        text_energy=generator.lognormal(0, 3, size),
        visual_rate=generator.random(size) / 10,
        adapted=generator.random(size) < 0.3,
    )
    odds, selected = generator.lognormal(0, 2, size), generator.random(size) < 0.1
    odds[1] = np.inf
    difference = generator.normal(size=size) / 10
    contrast = keep(
        folder / "contrast.parquet",
        CONTRAST,
        **{name: np.tile(values, 2) for name, values in index.items()},
        unit=["token"] * size + ["sample"] * size,
        odds_ratio=[*odds, *(1 / odds)],
        freq_difference=[*difference, *-difference],
        log_p_adjusted=-generator.exponential(30, 2 * size),
        selected=[*selected, *~selected],
    )
    tried = np.flatnonzero(selected)
    few = {name: values[tried] for name, values in index.items()}
    lexical = keep(
        folder / "lexical.parquet",
        LEXICAL,
        **few,
        pairs=[40] * len(tried),
        pairs_fired=generator.integers(0, 41, len(tried)),
        invariant=generator.random(len(tried)) < 0.5,
    )
    final = {name: values[:12] for name, values in few.items()}
    names = [f"L{layer}F{feature}" for layer, feature in zip(*final.values())]
    finals = keep(folder / "final.csv", FINAL_FEATURES, **final, name=names)
    ranking = keep(
        folder / "ranking.csv", RANKING, **final, name=names, target_delta_margin=-np.arange(12) / 8
    )
    arms = ["selected"] * 4 + ["random"] * 20 + ["selected"]
    ablation = keep(
        folder / "ablation.csv",
        ABLATION,
        arm=arms,
        size=[1] * 24 + [2],
        features=[*names[:4], *["L0F0"] * 20, ";".join(names[:2])],
        dataset=["test"] * 25,
        group=["all"] * 25,
        delta_margin=[-2.0, -1.0, -0.5, 0.25, *np.linspace(-0.9, 0, 20), -5.0],
        margin_low=[-3.0] * 25,
        margin_high=[1.0] * 25,
    )
    labels = np.array([*NASTY, "left ; or so"], dtype=object)
    truth = keep(
        folder / "truth.parquet",
        GROUND_TRUTH,
        **index,
        label=labels[np.arange(size) % len(labels)],
        matches=np.arange(size) % 3 > 0,
        auroc=generator.random(size),
        spatial=np.arange(size) % 5 == 0,
    )
    tables = ConceptTables(
        "fires <more> often", "token", contrast, lexical, finals, LIMITS, [ranking], [ablation]
    )
    return adapted, {CONCEPT: tables}, [truth]


def write_samples(folder: Path, features: list[tuple[int, int]]) -> DetailTables:
    """Write samples with pictures and words for some features."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (300, 200), "teal").save(folder / "picture.png")
    rows = [
        {
            "sample_id": f"s{i}",
            "image": "picture.png",
            "prompt": text,
            "answer": "<b>",
            "choices": ["<b>", "c"],
            "group": "g&h",
        }
        for i, text in enumerate(NASTY)
    ]
    (folder / "samples.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    names = [row["sample_id"] for row in rows]
    own = [
        (layer, feature, kind, rank)
        for layer, feature in features
        for rank, kind in enumerate(("top", "middle", "silent"))
    ]
    examples = keep(
        folder / "examples.parquet",
        EXAMPLES,
        layer=[one[0] for one in own],
        feature=[one[1] for one in own],
        kind=[one[2] for one in own],
        rank=[0] * len(own),
        sample_id=[names[place % len(names)] for place in range(len(own))],
    )
    active = [(*one[:2], names[place % len(names)]) for place, one in enumerate(own) if one[2] != "silent"]
    activations = keep(
        folder / "activations.parquet",
        EXAMPLE_ACTIVATIONS,
        layer=[one[0] for one in active for _ in range(4)],
        feature=[one[1] for one in active for _ in range(4)],
        sample_id=[one[2] for one in active for _ in range(4)],
        dictionary=["base", "adapted", "adapted", "null"] * len(active),
        position=[2, 1, 5, 5] * len(active),
        activation=[1.5, 3.25, 0.125, 2.0] * len(active),
    )
    edges = {
        "left": [0.0, 0.5, 0.0, 0.5],
        "top": [0.0, 0.0, 0.5, 0.5],
        "right": [0.5, 1, 0.5, 1],
        "bottom": [0.5, 0.5, 1, 1],
    }
    tokens = keep(
        folder / "tokens.parquet",
        EXAMPLE_TOKENS,
        sample_id=[name for name in names for _ in range(6)],
        position=list(range(1, 7)) * len(names),
        text=[word for text in NASTY for word in ["", "", "", "", text, "<end>"]],
        **{name: [*values, np.nan, np.nan] * len(names) for name, values in edges.items()},
    )
    layer, feature = features[0]
    labels = keep(
        folder / "labels.csv",
        LABELS,
        concept=[CONCEPT],
        layer=[layer],
        feature=[feature],
        label=[NASTY[0]],
        promotes=[NASTY[2]],
    )
    evidence = keep(
        folder / "evidence.csv",
        LABEL_EVIDENCE,
        concept=[CONCEPT] * 6 + ["other"],
        layer=[layer] * 7,
        feature=[feature] * 7,
        kind=["word", "word", "trait", "trait", "trait", "promoted", "word"],
        rank=[1, 0, 0, 1, 2, 0, 0],
        what=["right", NASTY[1], "relation=above", "by chance", "rarer", "up", "elsewhere"],
        effect=[0.25, 0.5, 0.4, 0.3, -0.5, 3.0, 0.9],
        log_p_adjusted=[-4.0, -9.0, -4.0, -2.0, -9.0, np.nan, -9.0],
    )
    near = {"layer": [layer] * 2, "feature": [feature] * 2}
    bins = keep(folder / "bins.parquet", EXAMPLE_BINS, **near, low=[0.0, 2.0], high=[2.0, 4.0], tokens=[7, 3])
    neighbours = keep(
        folder / "neighbours.parquet",
        EXAMPLE_NEIGHBOURS,
        **near,
        rank=[1, 0],
        neighbour=[8, 9],
        cosine=[0.5, 0.75],
    )
    told = {"concept": [CONCEPT] * 3, **{name: values[:1] * 3 for name, values in near.items()}}
    recurrence = keep(
        folder / "recurrence.csv", RECURRENCE, **told, seed=[0, 0, 1], arm=["final", "control", "final"],
        other_seed=[1, 1, 0], match=[7, 8, 9], cosine=[0.875, 0.1, 0.2], match_final=[True, False, False],
    )  # fmt: skip
    doses = [0.5, -0.5, 0.5, 0.5, 0.5]
    steering = keep(
        folder / "steering.csv", STEERING, concept=[CONCEPT] * 5, layer=[layer] * 5, feature=[feature] * 5,
        arm=["feature", "feature", "feature", "feature", "caa_feature"],
        group=["all", "all", "all", "left", "all"], dataset=["test", "test", "other <b>", "test", "test"],
        strength=doses, delta_accuracy=[0.125, -0.25, 0.0, 0.3, 0.4], delta_low=[0.0, -0.5, np.nan, 0.0, 0.0],
        delta_high=[0.25, 0.0, np.nan, 0.0, 0.0],
    )  # fmt: skip
    name = f"L{layer}F{feature}"
    # The last feature was ablated, and no sample of it is shown.
    ablation = keep(
        folder / "ablation.csv", ABLATION, concept=[CONCEPT] * 9, size=[1] * 6 + [3, 1, 1],
        arm=["selected"] * 3 + ["random"] * 3 + ["selected", "random", "selected"],
        features=[name] * 3 + [name, "L9F9", "L9F9"] + [name, "L9F9", "L2F7"],
        dataset=["test", "test", "other <b>", "test", "test", "other <b>", "test", "test", "test"],
        group=["all", "left", "all", "all", "all", "all", "all", "all", "all"],
        delta_margin=[-2.0, -3.0, 0.25, -0.5, -0.75, 9.0, -8.0, np.nan, -1.0],
        margin_low=[-2.5, np.nan, 0.0, 0, 0, 0, 0, 0, -2.0],
        margin_high=[-1.5, np.nan, 0.5, 0, 0, 0, 0, 0, np.inf],
    )  # fmt: skip
    patches = {"row": [0, 0, 1, 1], "col": [0, 1, 0, 1], "weight": [0.125, 0.25, 0.0, 0.0625]}
    attention = keep(
        folder / "attention.csv", HEAD_ATTENTION, concept=[CONCEPT] * 4, feature_layer=[layer] * 4,
        feature=[feature] * 4, head_name=["L0H1"] * 4, sample_id=["s1"] * 4, token=["<b>left"] * 4,
        left=[-0.5] * 4, right=[1.5] * 4, top=[0.0] * 4, bottom=[1.0] * 4, **patches,
    )  # fmt: skip
    heads = {"feature_layer": told["layer"], "feature": told["feature"], "concept": told["concept"]}
    attribution = keep(
        folder / "attribution.csv",
        HEAD_ATTRIBUTION,
        **heads,
        layer=[0, 0, 0],
        head=[0, 1, 2],
        score=[0.25, 0.5, 0.125],
        signed=[-2.0, 29.5, 0.001],
    )
    samples = str(folder / "samples.jsonl")
    facts = FactTables([labels], [evidence], [recurrence], [attribution], neighbours, 0.05)
    effects, looks = EffectTables([ablation], [steering]), LookTables([attention], [samples])
    return DetailTables(examples, activations, tokens, bins, samples, facts, effects, looks)


def write_experiment(folder: Path, layers: int = 3, features: int = 50) -> Path:
    """Write tables and the explorer of them; return its page."""
    adapted, concepts, truth = write_features(folder / "tables", layers, features)
    some = write_samples(folder / "samples", [(0, 3), (1, 4)])
    others = {"stage": OtherComparison("half <of> tuning", adapted)}
    rules = ["percentile", "percentile", "calibrated", "calibrated"]
    thresholds = keep(
        folder / "tables" / "thresholds.csv", THRESHOLDS, rule=rules, layer=[-1, 0, 0, -1], eps=[0.5] * 4,
        tau=[0.1, 0.2, 0.3, 0.9375],
    )  # fmt: skip
    write_explorer(
        folder / "explorer", "try & <see>", adapted, thresholds, "calibrated", concepts, truth, "test",
        others, some, 128, {"base": "(b): a model.", "adapted": "(a): another <one>."},
    )  # fmt: skip
    return folder / "explorer" / "index.html"


def told(file: Path) -> list:
    """Return the values that a script hands over."""
    text = file.read_text()
    assert text.isascii() and "<" not in text
    return json.loads("[" + re.fullmatch(r"explorer\.\w+\((.*)\);\n", text, re.DOTALL)[1] + "]")
