"""Collect samples on which features fire, fire half as strongly, and stay silent, with all their tokens.

One pass of the model over the data; the feature of the same index in several dictionaries is read from the
same residual stream, so that what tuning changed can be seen token by token.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from vlmdiff.activations.massive import massive_tokens
from vlmdiff.activations.tokens import IMAGE, TEXT
from vlmdiff.data.batching import prepare_batches
from vlmdiff.data.identity import shown_by
from vlmdiff.data.samples import Sample, load_samples
from vlmdiff.dictionaries.partial_reads import feature_rows, load_encoder
from vlmdiff.dictionaries.weights import load_config_file
from vlmdiff.features.neutral import groups_in_memory
from vlmdiff.interventions.activity import ENCODERS_ON_CPU
from vlmdiff.interventions.inputs import ModelFiles
from vlmdiff.models.batch import Batch, Seen
from vlmdiff.models.memory import spare_bytes
from vlmdiff.models.subject import Subject
from vlmdiff.models.token_text import TokenTexts
from vlmdiff.tables.causal import RANKING
from vlmdiff.tables.explorer import (
    EXAMPLE_ACTIVATIONS,
    EXAMPLE_BINS,
    EXAMPLE_NEIGHBOURS,
    EXAMPLE_TOKENS,
    EXAMPLES,
)
from vlmdiff.tables.features import ADAPTED, FINAL_FEATURES
from vlmdiff.tables.io import read_table, read_tables, write_table

Feature = tuple[int, int]
FEATURE = ["layer", "feature"]
ADAPTED_NAME = "adapted"
# How an image token without a place reads: LLaVA-NeXT's, which ends an image, and those of a second view.
UNPLACED = "↵"
ROWS = ["sample", "position", "image", *FEATURE, "activation"]
CHOSEN = [*FEATURE, "kind", "rank", "sample"]
CONTRACTS = (EXAMPLES, EXAMPLE_ACTIVATIONS, EXAMPLE_TOKENS, EXAMPLE_BINS, EXAMPLE_NEIGHBOURS)
BINS, NEIGHBOURS = 12, 5


def chosen_features(
    final: Sequence[str], ranking: Sequence[str], pools: Sequence[str], adapted: str, count: int
) -> list[Feature]:
    """Return which features are shown with samples.

    Args:
        final: paths of FINAL_FEATURES, one a concept.
        ranking: paths of RANKING of final features, one for each ablated concept: the best of these.
        pools: paths of RANKING of random pools; of the first pool of each as many features are taken.
        adapted: path of ADAPTED; those that turned farthest are taken too.
        count: at most so many of each table.
    """
    found: list[pd.DataFrame] = [read_table(file, FINAL_FEATURES).head(count) for file in final]
    for file in (*ranking, *pools):
        ranked = read_tables([file], RANKING).sort_values("rank")
        found.append(ranked[ranked["pool"] <= 0].head(count))
    turned = read_table(adapted, ADAPTED)
    found.append(turned[turned["adapted"]].sort_values(["similarity", *FEATURE]).head(count))
    table = pd.concat([one[FEATURE] for one in found]).drop_duplicates().sort_values(FEATURE)
    return list(zip(table["layer"].astype(int), table["feature"].astype(int)))


@torch.no_grad()
def active_tokens(
    subject: Subject,
    samples: Sequence[Sample],
    folders: Mapping[str, Mapping[int, Path]],
    features: Sequence[Feature],
    batch_tokens: int,
    massive_ratio: float,
) -> dict[str, pd.DataFrame]:
    """Return where some features are active on text and image tokens, by dictionary.

    Args:
        subject: the model.
        samples: what it is shown.
        folders: of each dictionary the folder of each layer.
        features: layer and index.
        batch_tokens: most tokens of a forward pass.
        massive_ratio: multiple of its sample's median norm above which a token is left out; 0: none is.

    Returns:
        Frames with the columns ROWS.
    """
    layers = sorted({layer for layer, _ in features})
    wanted = {layer: np.array([index for own, index in features if own == layer]) for layer in layers}
    width = max(load_config_file(one[layer])["d_sae"] for one in folders.values() for layer in layers)
    budget = spare_bytes(subject.device, on_cpu=ENCODERS_ON_CPU)
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in folders}
    for group in groups_in_memory(layers, 4 * width * subject.d_model * len(folders), budget):
        encoders = {
            (name, layer): load_encoder(one[layer], subject.device, subject.d_model)
            for name, one in folders.items()
            for layer in group
        }
        for indices, batch in prepare_batches(subject, samples, batch_tokens):
            residuals = subject.residuals(batch, group)
            for (name, layer), encoder in encoders.items():
                found = active_in(encoder, residuals[layer], batch, wanted[layer], massive_ratio)
                found["sample"] = np.asarray(indices)[found["sample"]]
                parts[name].append(found.assign(layer=layer))
    return {name: pd.concat(frames, ignore_index=True)[ROWS] for name, frames in parts.items()}


def active_in(
    encoder: torch.nn.Module, residual: torch.Tensor, batch: Batch, features: np.ndarray, massive_ratio: float
) -> pd.DataFrame:
    """Return where features of one layer are active in a batch; samples by their place in it."""
    kinds = batch.token_type.to(residual.device)
    shown = ((kinds == TEXT) | (kinds == IMAGE)) & ~massive_tokens(residual, kinds, massive_ratio)
    sample, position = (one.cpu().numpy() for one in shown.nonzero(as_tuple=True))
    pairs = encoder.active_pairs(residual[shown].to(encoder.W_enc))
    columns = pairs.columns.cpu().numpy()
    kept = np.isin(columns, features) & (pairs.values > 0).cpu().numpy()
    token = pairs.tokens().cpu().numpy()[kept]
    image = (kinds == IMAGE).cpu().numpy()[sample[token], position[token]]
    active = pairs.values.cpu().numpy()[kept].astype(np.float64)
    where = {"sample": sample[token], "position": position[token], "image": image}
    return pd.DataFrame({**where, "feature": columns[kept], "activation": active})


@dataclass(frozen=True)
class Choice:
    """A sample that is shown of a feature: kind and rank as in EXAMPLES, and its index."""

    kind: str
    rank: int
    sample: int


def chosen_samples(
    strongest: np.ndarray, samples: Sequence[Sample], count: int, on_patches: Collection[int] = ()
) -> Iterator[Choice]:
    """Yield the strongest samples of a feature, some half as strong, and silent ones of the same groups.

    Args:
        strongest: (samples,) largest activation on a text token; 0 where it is silent on these.
        samples: the samples; each picture is shown once a kind.
        count: how many of each kind.
        on_patches: samples on whose image tokens it is active: they are not silent.
    """
    falling = np.argsort(-strongest, kind="stable")
    active = falling[strongest[falling] > 0]
    top = apart(active, samples, count)
    half = strongest[active[0]] / 2 if len(active) else 0.0
    nearest = active[np.argsort(np.abs(strongest[active] - half), kind="stable")]
    groups = {samples[index].group for index in top}
    quiet = (index for index in np.flatnonzero(strongest == 0) if index not in on_patches)
    silent = [index for index in quiet if samples[index].group in groups]
    middle = [index for index in nearest if index not in set(top)]
    for kind, found in (("top", top), ("middle", middle), ("silent", silent)):
        for rank, index in enumerate(apart(found, samples, count)):
            yield Choice(kind, rank, int(index))


def apart(indices: Sequence[int], samples: Sequence[Sample], count: int) -> list[int]:
    """Return the first indices whose pictures differ; samples without one by their text."""
    found: dict[str, int] = {}
    for index in indices:
        if len(found) == count:
            break
        found.setdefault(shown_by(samples[index]), int(index))
    return list(found.values())


def token_rows(subject: Subject, samples: Sequence[Sample], batch_tokens: int) -> pd.DataFrame:
    """Return the words and patches of samples, with the columns of EXAMPLE_TOKENS."""
    texts, rows = TokenTexts(subject.tokenizer), []
    for indices, batch in prepare_batches(subject, samples, batch_tokens):
        pictures = count()
        for place, index in enumerate(indices):
            sample = samples[index]
            boxes = patch_boxes(subject, sample, batch.seen, next(pictures)) if sample.image else iter(())
            for position, kind in enumerate(batch.token_type[place].tolist()):
                row = {"sample_id": sample.sample_id, "position": position}
                if kind == IMAGE:
                    box = next(boxes, None)
                    rows.append({**row, "text": UNPLACED} if box is None else {**row, "text": "", **box})
                elif kind == TEXT:
                    rows.append({**row, "text": written(texts, int(batch.input_ids[place, position]))})
    return pd.DataFrame(rows, columns=EXAMPLE_TOKENS.names)


def written(texts: TokenTexts, token: int) -> str:
    """Return what a token writes; bytes that are no whole character by their numbers."""
    text = texts.text(token)
    return text if isinstance(text, str) else texts.name(token)


def patch_boxes(subject: Subject, sample: Sample, seen: Seen, picture: int) -> Iterator[dict[str, float]]:
    """Yield the edges of an image's patches, in the order of its tokens, as fractions of the picture."""
    left, top, right, bottom = subject.view_of(sample.image_size())
    rows, columns = seen.grids[picture].tolist()
    across, down = np.linspace(left, right, columns + 1), np.linspace(top, bottom, rows + 1)
    for row, column in seen.places(picture).tolist():
        edges = across[column], down[row], across[column + 1], down[row + 1]
        yield dict(zip(("left", "top", "right", "bottom"), map(float, edges), strict=True))


def collect_examples(
    model: ModelFiles,
    samples_file: str,
    dictionaries: Mapping[str, Sequence[str]],
    tables: Mapping[str, Sequence[str] | str],
    outputs: Sequence[str],
    *,
    layers: Sequence[int],
    features: int,
    samples: int,
    limit: int,
    batch_tokens: int,
    massive_ratio: float,
) -> None:
    """Write the tables of `CONTRACTS`.

    Args:
        model: the tuned model.
        samples_file: samples.jsonl of the data from which samples are chosen.
        dictionaries: weight files at each of `layers`, by name; `adapted` chooses.
        tables: `final`, `ranking`, `pools` and `adapted`, as for `chosen_features`.
        outputs: where the tables go.
        layers: decoder blocks that have dictionaries.
        features: at most so many of each table.
        samples: of each kind.
        limit: samples searched, from the first on.
        batch_tokens: tokens in one forward pass, padding included.
        massive_ratio: see `active_tokens`.
    """
    lists = (tables[name] for name in ("final", "ranking", "pools"))
    chosen = chosen_features(*lists, str(tables["adapted"]), features)
    found = [pd.DataFrame(columns=contract.names) for contract in CONTRACTS]
    if chosen:
        subject, searched = model.load(), load_samples(samples_file, limit)
        folders = {
            name: {layer: Path(file).parent for layer, file in zip(layers, files, strict=True)}
            for name, files in dictionaries.items()
        }
        active = active_tokens(subject, searched, folders, chosen, batch_tokens, massive_ratio)
        picks = picked(active[ADAPTED_NAME], chosen, searched, samples)
        shown = [searched[index] for index in sorted(set(picks["sample"]))]
        names = np.array([sample.sample_id for sample in searched], dtype=object)
        found = [
            picks.assign(sample_id=names[picks["sample"].to_numpy(int)]).drop(columns="sample"),
            activations_of(active, picks, names),
            token_rows(subject, shown, batch_tokens),
            bins_of(active[ADAPTED_NAME]),
            nearest(folders[ADAPTED_NAME], chosen),
        ]
    for frame, contract, output in zip(found, CONTRACTS, outputs, strict=True):
        write_table(frame, contract, output)


def picked(
    active: pd.DataFrame, features: Sequence[Feature], samples: Sequence[Sample], count: int
) -> pd.DataFrame:
    """Return which samples are shown of each feature, with the columns `CHOSEN`."""
    text = active[~active["image"]].groupby([*FEATURE, "sample"])["activation"].max()
    seen = active[active["image"]].groupby(FEATURE)["sample"].agg(set).to_dict()
    rows = []
    for layer, feature in features:
        strongest = np.zeros(len(samples))
        if (layer, feature) in text.index:
            own = text.loc[(layer, feature)]
            strongest[own.index.to_numpy()] = own.to_numpy()
        for choice in chosen_samples(strongest, samples, count, seen.get((layer, feature), ())):
            rows.append({"layer": layer, "feature": feature, **vars(choice)})
    return pd.DataFrame(rows, columns=CHOSEN)


def activations_of(found: Mapping[str, pd.DataFrame], picks: pd.DataFrame, names: np.ndarray) -> pd.DataFrame:
    """Return the activations on the samples that are shown, with the columns of EXAMPLE_ACTIVATIONS."""
    shown = picks[[*FEATURE, "sample"]].drop_duplicates()
    parts = [one.merge(shown, on=[*FEATURE, "sample"]).assign(dictionary=name) for name, one in found.items()]
    table = pd.concat(parts, ignore_index=True)
    table = table.sort_values([*FEATURE, "sample", "dictionary", "position"], ignore_index=True)
    return table.assign(sample_id=names[table["sample"].to_numpy(int)])[EXAMPLE_ACTIVATIONS.names]


def bins_of(active: pd.DataFrame) -> pd.DataFrame:
    """Count the text tokens on which each feature fires by activation, with the columns of EXAMPLE_BINS."""
    parts = []
    for (layer, feature), rows in active[~active["image"]].groupby(FEATURE):
        counts, edges = np.histogram(rows["activation"], BINS, (0.0, rows["activation"].max()))
        ends = {"low": edges[:-1], "high": edges[1:]}
        parts.append(pd.DataFrame({"layer": layer, "feature": feature, **ends, "tokens": counts}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=EXAMPLE_BINS.names)


def nearest(folders: Mapping[int, Path], features: Sequence[Feature]) -> pd.DataFrame:
    """Return the nearest decoder rows of each feature, with the columns of EXAMPLE_NEIGHBOURS."""
    parts = []
    for layer in sorted({layer for layer, _ in features}):
        own = np.array([index for at, index in features if at == layer])
        with feature_rows(folders[layer]) as file:
            rows = np.asarray(file.decoder(0, file.shape[0]), dtype=np.float32)
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        cosines = rows[own] @ rows.T
        cosines[np.arange(len(own)), own] = -np.inf
        best = np.argsort(-cosines, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(rows) - 1)]
        found = {"neighbour": best.ravel(), "cosine": np.take_along_axis(cosines, best, 1).ravel()}
        places = {
            "feature": np.repeat(own, best.shape[1]),
            "rank": np.tile(np.arange(best.shape[1]), len(own)),
        }
        parts.append(pd.DataFrame({"layer": layer, **places, **found}))
    return pd.concat(parts, ignore_index=True)
