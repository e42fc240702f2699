"""Labels of features without a service: logit lens, selective words, traits of the strongest samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vlmdiff.features.contrast import adjust_log_p, fisher_log_p
from vlmdiff.features.label_samples import label_samples
from vlmdiff.features.sums import SampleSetError
from vlmdiff.features.traits import trait_matrix
from vlmdiff.models.token_text import TokenTexts, quoted
from vlmdiff.tables.feature_names import feature_name
from vlmdiff.tables.features import FINAL_FEATURES
from vlmdiff.tables.io import read_table, write_table
from vlmdiff.tables.labels import LABEL_EVIDENCE, LABEL_SAMPLES, LABELS

if TYPE_CHECKING:
    from vlmdiff.data.samples import Sample
    from vlmdiff.models.subject import Subject

Array = np.ndarray
FEATURE = ["layer", "feature"]
CHUNK_TOKENS = 8192
NO_LABEL = "no clear label"


@dataclass(frozen=True)
class LabelCriteria:
    """How evidence becomes a label.

    Attributes:
        tokens: tokens of the logit lens, words and traits that are kept as evidence.
        strong_samples: fraction of samples that counts as a feature's strongest.
        moderate, strong: effects from which a word or trait is named, and called strong.
        fdr: largest Benjamini-Hochberg adjusted p.
        shown, tested: samples that a description is made of, and scored by (`label_samples`).
    """

    tokens: int
    strong_samples: float
    moderate: float
    strong: float
    fdr: float
    shown: int
    tested: int


@dataclass(frozen=True)
class Responses:
    """What some features of one layer do on some samples.

    Attributes:
        strongest: (samples, features), largest activation on a text token.
        fires: (vocabulary, features), text tokens of each kind on which a feature fires.
        tokens: (vocabulary,), text tokens of each kind.
    """

    strongest: Array
    fires: Array
    tokens: Array


def collect_responses(
    shards: Sequence[str | Path], folder: str | Path, layer: int, features: Array, vocabulary: int
) -> tuple[list[str], Responses]:
    """Run a dictionary over stored activations, and keep what some of its features do.

    Returns:
        Sample ids, and the responses.
    """
    from vlmdiff.activations.paired import open_store
    from vlmdiff.dictionaries.partial_reads import load_encoder
    from vlmdiff.features.firings import encode_chunk

    store = open_store(shards, layer)
    dictionary = load_encoder(folder, "cpu", store.d_model)
    place = np.full(dictionary.d_sae, -1)
    place[features] = np.arange(len(features))
    strongest = np.zeros((len(store.sample_ids), len(features)), np.float32)
    fires, tokens = np.zeros((vocabulary, len(features)), np.int64), np.zeros(vocabulary, np.int64)
    for chunk in store.chunks(["text"], CHUNK_TOKENS):
        np.add.at(tokens, np.asarray(chunk.token_id, dtype=np.int64), 1)
        firings = encode_chunk(dictionary, chunk)
        kept = firings.take(place[firings.feature] >= 0)
        column = place[kept.feature]
        np.maximum.at(strongest, (kept.sample, column), kept.activation.astype(np.float32))
        np.add.at(fires, (kept.token_id, column), 1)
    return store.sample_ids, Responses(strongest, fires, tokens)


def log_odds(a: Array, n_a: Array, b: Array, n_b: Array) -> Array:
    """Return log odds ratios of a of n_a against b of n_b, with half a count added to each cell (Haldane)."""
    return np.log((a + 0.5) * (n_b - b + 0.5) / ((n_a - a + 0.5) * (b + 0.5)))


def word_evidence(responses: Responses, names: Sequence[str]) -> pd.DataFrame:
    """Test on which tokens each feature fires: column (of the feature), what, effect, log_odds, log_p."""
    kinds = np.flatnonzero(responses.tokens)
    fires, tokens = responses.fires[kinds], responses.tokens[kinds][:, None]
    elsewhere, others = fires.sum(0) - fires, tokens.sum() - tokens
    kind, column = np.nonzero(fires)
    cells = [part[kind, column] for part in np.broadcast_arrays(fires, tokens, elsewhere, others)]
    return pd.DataFrame(
        {
            "column": column,
            "what": np.array(names, dtype=object)[kinds[kind]],
            "effect": cells[0] / (cells[0] + cells[2]),
            "log_odds": log_odds(*cells),
            "log_p": fisher_log_p(*cells),
        }
    )


def trait_evidence(strongest: Array, traits: Sequence[str], has: Array, share: float) -> pd.DataFrame:
    """Test which traits the strongest samples of each feature have more often than the others.

    Args:
        strongest: (samples, features), largest activation of each sample.
        traits: names.
        has: bool (samples, traits).
        share: fraction of samples that counts as strongest; those on which it is silent never do.
    """
    count = max(1, round(share * len(strongest)))
    bar = np.sort(strongest, axis=0)[-count]
    strong = (strongest >= bar) & (strongest > 0)
    n_strong = strong.sum(0)
    with_trait = has.T.astype(np.int64) @ strong
    others = has.sum(0)[:, None] - with_trait
    n_others = len(strongest) - n_strong
    trait, column = np.nonzero(with_trait)
    cells = [
        part[trait, column]
        for part in np.broadcast_arrays(with_trait, n_strong[None], others, n_others[None])
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = np.nan_to_num(cells[0] / cells[1] - cells[2] / cells[3])
    return pd.DataFrame(
        {
            "column": column,
            "what": np.array(traits, dtype=object)[trait],
            "effect": difference,
            "log_odds": log_odds(*cells),
            "log_p": fisher_log_p(*cells),
        }
    )


def lens_evidence(subject: Subject, rows: Array, count: int) -> Iterator[pd.DataFrame]:
    """Yield the tokens that each decoder row promotes and suppresses most, through final norm and head."""
    import torch

    from vlmdiff.models.logits import precise_logits

    with torch.no_grad():
        norm = subject.norm
        states = norm(torch.from_numpy(rows).to(norm.weight.device, norm.weight.dtype))
        logits = precise_logits(subject.head, states).float().cpu()
    # What a row adds to all tokens alike changes no answer.
    logits = logits - logits.mean(dim=-1, keepdim=True)
    names = TokenTexts(subject.tokenizer)
    for kind, largest in (("promoted", True), ("suppressed", False)):
        values, ids = logits.topk(min(count, logits.shape[1]), dim=-1, largest=largest)
        tokens = [names.name(int(token)) for token in ids.flatten()]
        yield pd.DataFrame(
            {
                "column": np.repeat(np.arange(len(rows)), ids.shape[1]),
                "kind": kind,
                "rank": np.tile(np.arange(ids.shape[1]), len(rows)),
                "what": tokens,
                "effect": values.flatten().numpy().astype(float),
                "log_odds": np.nan,
                "log_p_adjusted": np.nan,
            }
        )


def best_first(frame: pd.DataFrame, kind: str, tests: int, criteria: LabelCriteria) -> pd.DataFrame:
    """Adjust the p of one kind of evidence and keep each feature's best, by effect among the significant.

    Args:
        frame: column, what, effect, log_odds, log_p.
        kind: word or trait.
        tests: number of all tests, those without a hit included.
        criteria: how many of each feature are kept, and which p are significant.
    """
    frame = frame.assign(kind=kind, log_p_adjusted=adjust_log_p(frame["log_p"].to_numpy(), tests))
    frame["sure"] = frame["log_p_adjusted"] <= np.log(criteria.fdr)
    frame = frame.sort_values(
        ["column", "sure", "effect", "log_odds", "what"], ascending=[True, False, False, False, True]
    )
    frame["rank"] = frame.groupby("column").cumcount()
    return frame[frame["rank"] < criteria.tokens].drop(columns=["log_p", "sure"])


def named(samples: Sequence[Sample], ids: Sequence[str]) -> list[Sample]:
    """Return the samples of one data set that activations name, in their order.

    A name says nothing beyond its data set: two data sets may name different samples alike.

    Raises:
        SampleSetError: the data set does not have one.
    """
    known = {sample.sample_id: sample for sample in samples}
    if missing := [name for name in ids if name not in known]:
        raise SampleSetError(
            f"{len(missing)} samples of the activations are not in the data set, e.g. '{missing[0]}'; delete "
            "the data set's activations and run snakemake again, which remakes them"
        )
    return [known[name] for name in ids]


def layer_evidence(
    layer: int,
    features: Array,
    shards: Sequence[Sequence[str | Path]],
    folder: str | Path,
    subject: Subject,
    samples: Sequence[Sequence[Sample]],
    criteria: LabelCriteria,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return all evidence about some features of one layer, and samples of the first data set.

    `shards` and `samples` are by data set.
    """
    from vlmdiff.dictionaries.partial_reads import feature_rows

    vocabulary = subject.head.weight.shape[0]
    found = [collect_responses(files, folder, layer, features, vocabulary) for files in shards]
    shown = [sample for known, (ids, _) in zip(samples, found, strict=True) for sample in named(known, ids)]
    responses = Responses(
        np.concatenate([one.strongest for _, one in found]),
        sum(one.fires for _, one in found),
        sum(one.tokens for _, one in found),
    )
    texts = TokenTexts(subject.tokenizer)
    names = [texts.name(token) for token in range(vocabulary)]
    words = word_evidence(responses, names)
    traits, has = trait_matrix(shown)
    kinds = int((responses.tokens > 0).sum())
    traits_found = trait_evidence(responses.strongest, traits, has, criteria.strong_samples)
    with feature_rows(folder) as file:
        rows = np.stack([file.decoder(int(i), int(i) + 1)[0] for i in features])
    parts = [
        best_first(words, "word", kinds * len(features), criteria),
        best_first(traits_found, "trait", len(traits) * len(features), criteria),
        *lens_evidence(subject, rows, criteria.tokens),
        neighbours(rows, layer, features, criteria.tokens),
    ]
    evidence = pd.concat(parts, ignore_index=True)
    evidence = evidence.assign(layer=layer, feature=features[evidence["column"]]).drop(columns="column")
    target = found[0][1].strongest
    chosen = label_samples(target, shown[: len(target)], features, layer, criteria.shown, criteria.tested)
    return evidence, chosen.assign(layer=layer)


def neighbours(rows: Array, layer: int, features: Array, count: int) -> pd.DataFrame:
    """Return the features among those given whose decoder rows, (features, d_model), point most alike."""
    units = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -np.inf)
    best = np.argsort(-cosines, axis=1, kind="stable")[:, : min(count, len(rows) - 1)]
    return pd.DataFrame(
        {
            "column": np.repeat(np.arange(len(rows)), best.shape[1]),
            "kind": "neighbour",
            "rank": np.tile(np.arange(best.shape[1]), len(rows)),
            "what": [feature_name((layer, features[one])) for one in best.flatten()],
            "effect": np.take_along_axis(cosines, best, 1).flatten().astype(float),
            "log_odds": np.nan,
            "log_p_adjusted": np.nan,
        }
    )


def clear(evidence: pd.DataFrame, kind: str, criteria: LabelCriteria) -> pd.Series | None:
    """Return a feature's best evidence of a kind, if its effect and p are within the criteria."""
    best = evidence[(evidence["kind"] == kind) & (evidence["rank"] == 0)]
    good = best[(best["effect"] >= criteria.moderate) & (best["log_p_adjusted"] <= np.log(criteria.fdr))]
    return good.iloc[0] if len(good) else None


def compose(evidence: pd.DataFrame, criteria: LabelCriteria) -> dict[str, Any]:
    """Put a feature's label together: clear word, clear trait, then what it promotes."""
    word, trait = (clear(evidence, kind, criteria) for kind in ("word", "trait"))
    lens = {
        kind: list(evidence.loc[evidence["kind"] == kind].sort_values("rank")["what"])
        for kind in ("promoted", "suppressed")
    }
    row: dict[str, Any] = {"promotes": " ".join(lens["promoted"]), "suppresses": " ".join(lens["suppressed"])}
    for kind, best, effect in (("word", word, "word_share"), ("trait", trait, "trait_difference")):
        known = best is not None
        row |= {kind: best["what"] if known else "", effect: best["effect"] if known else np.nan}
        row[f"{kind}_log_odds"] = best["log_odds"] if known else np.nan
    effects = [best["effect"] for best in (word, trait) if best is not None]
    parts = [f"on {quoted(word['what'])}"] if word is not None else []
    parts += [trait["what"]] if trait is not None else []
    row["label"] = f"{', '.join(parts)}; promotes {next(iter(lens['promoted']), '')}" if parts else NO_LABEL
    row["confidence"] = "none" if not effects else "strong" if max(effects) >= criteria.strong else "moderate"
    return row


def label_features(
    concept: str,
    seed: int,
    final_file: str | Path,
    sample_files: Sequence[str | Path],
    shards: Mapping[int, Sequence[Sequence[str | Path]]],
    dictionaries: Mapping[int, str | Path],
    subject: Subject,
    criteria: LabelCriteria,
    outputs: tuple[str | Path, str | Path, str | Path],
) -> None:
    """Label every final feature of a concept and write LABELS, LABEL_EVIDENCE and LABEL_SAMPLES.

    Args:
        concept: its name.
        seed: index of the seed.
        final_file: FINAL_FEATURES.
        sample_files: samples.jsonl of the concept's target data, and of its baseline's.
        shards: by layer the activations of each of these data sets.
        dictionaries: folder of the dictionary of each layer.
        subject: the model, for its vocabulary, final norm and head.
        criteria: how evidence becomes a label.
        outputs: paths of the three tables.
    """
    from vlmdiff.data.samples import load_samples

    final = read_table(final_file, FINAL_FEATURES, [*FEATURE, "name"])
    samples = [load_samples(Path(file)) for file in sample_files]
    parts = [
        layer_evidence(
            int(layer),
            part["feature"].to_numpy(),
            shards[int(layer)],
            dictionaries[int(layer)],
            subject,
            samples,
            criteria,
        )
        for layer, part in final.groupby("layer")
    ]
    names = [name for name in LABEL_EVIDENCE.names if name not in ("concept", "seed")]
    evidence = (
        pd.concat([one for one, _ in parts], ignore_index=True)
        if parts
        else LABEL_EVIDENCE.empty_table().to_pandas()[names]
    )
    by_feature = dict(iter(evidence.groupby(FEATURE)))
    rows = [
        {**row, **compose(by_feature[row["layer"], row["feature"]], criteria)}
        for row in final.to_dict("records")
    ]
    columns = [name for name in LABELS.names if name not in ("concept", "seed")]
    labels = pd.DataFrame(rows, columns=columns)
    write_table(labels.assign(concept=concept, seed=seed), LABELS, outputs[0])
    order = ["layer", "feature", "kind", "rank"]
    evidence = evidence.sort_values(order, ignore_index=True)
    write_table(evidence.assign(concept=concept, seed=seed), LABEL_EVIDENCE, outputs[1])
    chosen = [one for _, one in parts] or [pd.DataFrame(columns=LABEL_SAMPLES.names)]
    table = pd.concat(chosen, ignore_index=True).assign(concept=concept, seed=seed)
    write_table(table, LABEL_SAMPLES, outputs[2])
