"""Does a feature fire on the image, or on words of the question? (docs/understand/method.md section 6)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vlmdiff.config.defaults import MASSIVE_RATIO
from vlmdiff.features.candidates import FEATURE, find_candidates, strongest_samples
from vlmdiff.features.sums import SampleSet, SampleSetError
from vlmdiff.tables.features import LEXICAL
from vlmdiff.tables.io import write_table

if TYPE_CHECKING:
    from vlmdiff.data.samples import Sample
    from vlmdiff.features.neutral import OwnWords
    from vlmdiff.models.subject import Subject

ENCODERS_ON_CPU = 4 * 2**30  # bytes


@dataclass(frozen=True)
class LexicalCriteria:
    """When a feature fires, and when it counts as invariant.

    Attributes:
        threshold: activation above which a feature fires.
        min_pair_fraction: loose variant: fraction of image x prompt pairs that must fire.
        variant: the one that later stages use: `strict` (fires on every sample), `loose`, or `none`, which
            tries nothing and keeps every candidate.
    """

    threshold: float
    min_pair_fraction: float
    variant: str


@dataclass(frozen=True)
class NeutralRuns:
    """What is needed to run the model on neutral prompts.

    Attributes:
        model: name of the model.
        spec: its entry in the config.
        path: its checkpoint.
        dictionaries: folder of the adapted dictionary of each layer.
        samples_file: samples of the target's data set.
        prompts: neutral prompts.
        batch_tokens: tokens in one forward pass.
        describe_tokens: tokens that the model may add in its own words.
        concept_words: words at which it is stopped.
        massive_ratio: multiple of its sample's median norm above which a token is left out; 0: none is.
    """

    model: str
    spec: Mapping[str, Any]
    path: str | Path
    dictionaries: Mapping[int, str | Path]
    samples_file: str | Path
    prompts: Sequence[str]
    batch_tokens: int
    describe_tokens: int = 0
    concept_words: Sequence[str] = ()
    massive_ratio: float = MASSIVE_RATIO


def run_neutral(tried: pd.DataFrame, runs: NeutralRuns) -> pd.DataFrame:
    """Measure every (feature, sample, neutral prompt).

    Each (sample, prompt) pair runs once, whatever the number of features that want it.

    Args:
        tried: layer, feature, sample_id.
        runs: model, dictionaries, samples and prompts.

    Returns:
        layer, feature, sample_id, prompt (index), neutral (activation).

    Raises:
        SampleSetError: the statistics name samples that the data set does not have.
    """
    from vlmdiff.data.samples import load_samples
    from vlmdiff.features.neutral import OwnWords, with_prompts
    from vlmdiff.models.describe import tokens_of_words
    from vlmdiff.models.registry import load_subject

    known = {sample.sample_id: sample for sample in load_samples(runs.samples_file)}
    wanted = sorted(set(tried["sample_id"]))
    if missing := [name for name in wanted if name not in known]:
        raise SampleSetError(
            f"{runs.samples_file}: {len(missing)} samples of the statistics are not there, "
            f"e.g. '{missing[0]}'; remake activations and statistics"
        )
    subject = load_subject(runs.model, runs.spec, runs.path)
    features = {layer: sorted(set(part["feature"])) for layer, part in tried.groupby("layer")}
    shown = with_prompts([known[name] for name in wanted], runs.prompts)
    own_words = OwnWords(runs.describe_tokens, tokens_of_words(subject.tokenizer, runs.concept_words))
    found = measure_in_groups(subject, shown, features, runs, own_words)
    return look_up(tried, wanted, features, found, len(runs.prompts))


def measure_in_groups(
    subject: Subject,
    shown: Sequence[Sample],
    features: Mapping[int, Sequence[int]],
    runs: NeutralRuns,
    own_words: OwnWords,
) -> dict[int, np.ndarray]:
    """Run the model once for as many layers as have room for their encoders beside it."""
    from vlmdiff.dictionaries.partial_reads import load_encoder
    from vlmdiff.dictionaries.weights import load_config_file
    from vlmdiff.features.neutral import groups_in_memory, measure
    from vlmdiff.models.memory import spare_bytes

    largest = max(load_config_file(runs.dictionaries[layer])["d_sae"] for layer in features)
    budget = spare_bytes(subject.device, on_cpu=ENCODERS_ON_CPU)
    found: dict[int, np.ndarray] = {}
    for group in groups_in_memory(sorted(features), 4 * largest * subject.d_model, budget):
        wanted = {layer: features[layer] for layer in group}
        # Not kept by name: the next group's encoders need their room.
        found |= measure(
            subject,
            shown,
            {
                layer: load_encoder(runs.dictionaries[layer], subject.device, subject.d_model)
                for layer in group
            },
            wanted,
            runs.batch_tokens,
            own_words,
            runs.massive_ratio,
        )
    return found


def look_up(
    tried: pd.DataFrame,
    wanted: Sequence[str],
    features: Mapping[int, Sequence[int]],
    found: Mapping[int, np.ndarray],
    n_prompts: int,
) -> pd.DataFrame:
    """Take from each layer's array (samples x prompts, features) what each feature was tried on."""
    rows = tried[[*FEATURE, "sample_id"]].merge(pd.DataFrame({"prompt": range(n_prompts)}), how="cross")
    parts = []
    for layer, part in rows.groupby("layer"):
        row = pd.Index(wanted).get_indexer(part["sample_id"]) * n_prompts + part["prompt"].to_numpy()
        column = pd.Index(features[layer]).get_indexer(part["feature"])
        parts.append(part.assign(neutral=found[layer][row, column].astype(np.float64)))
    return pd.concat(parts, ignore_index=True)


def judge(tried: pd.DataFrame, neutral: pd.DataFrame, criteria: LexicalCriteria) -> pd.DataFrame:
    """Decide by both variants (contract LEXICAL, without `concept`).

    Args:
        tried: layer, feature, sample_id, activation; one row a (feature, sample).
        neutral: layer, feature, sample_id, prompt, neutral; one row a (feature, sample, prompt).
        criteria: when a feature fires and when it counts as invariant.
    """
    neutral = neutral.assign(fired=neutral["neutral"] > criteria.threshold)
    by_sample = neutral.groupby([*FEATURE, "sample_id"])["fired"].any().groupby(level=FEATURE)
    by_pair = neutral.groupby(FEATURE)
    table = pd.DataFrame(
        {
            "samples": by_sample.size(),
            "pairs": by_pair.size(),
            "pairs_fired": by_pair["fired"].sum(),
            "samples_fired": by_sample.sum(),
            "activation_concept": tried.groupby(FEATURE)["activation"].mean(),
            "activation_neutral": by_pair["neutral"].mean(),
        }
    )
    table["invariant_strict"] = table["samples_fired"] == table["samples"]
    table["invariant_loose"] = table["pairs_fired"] / table["pairs"] >= criteria.min_pair_fraction
    table["invariant"] = table[f"invariant_{criteria.variant}"]
    return table.reset_index()


def untried(candidates: pd.DataFrame) -> pd.DataFrame:
    """Keep all candidates without a trial (contract LEXICAL, without `concept`)."""
    counts = dict.fromkeys(("samples", "pairs", "pairs_fired", "samples_fired"), 0)
    unknown = dict.fromkeys(("activation_concept", "activation_neutral"), np.nan)
    return candidates.assign(
        **counts, **unknown, invariant_strict=False, invariant_loose=False, invariant=True
    )


def lexical_filter(
    concept: str,
    target: dict,
    unit: str,
    eps: float,
    count: int,
    tables: tuple[str | Path, str | Path],
    target_files: tuple[Sequence[str | Path], Sequence[str | Path]],
    runs: NeutralRuns,
    criteria: LexicalCriteria,
    output: str | Path,
) -> None:
    """Try all candidates of a concept under neutral prompts.

    Args:
        concept: its name.
        target: sample set of the concept (`dataset`, `groups`, `without`).
        unit: unit of the contrast that selects, token or sample.
        count: strongest samples of each feature.
        tables: paths of ADAPTED and CONTRAST.
        target_files: TOP_SAMPLES and TOTALS tables of the target's data set, one each a layer.
        runs: what is needed to run the model.
        criteria: the thresholds.
        output: path of the table LEXICAL; empty if there are no candidates.
    """
    candidates = find_candidates(*tables, unit, eps)
    if candidates.empty:
        write_table(LEXICAL.empty_table().to_pandas(), LEXICAL, output)
        return
    if criteria.variant == "none":
        table = untried(candidates)
    else:
        tried = strongest_samples(*target_files, candidates, SampleSet.of(target), count)
        table = judge(tried, run_neutral(tried, runs), criteria)
    write_table(table.assign(concept=concept), LEXICAL, output)
