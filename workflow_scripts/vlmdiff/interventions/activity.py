"""What features do on the questions that are tested: how often they fire, how strongly, what they carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vlmdiff.activations.massive import massive_tokens
from vlmdiff.activations.tokens import TEXT
from vlmdiff.dictionaries.partial_reads import feature_rows, halves, load_encoder
from vlmdiff.dictionaries.weights import load_config_file
from vlmdiff.features.neutral import CHUNK_VALUES, groups_in_memory
from vlmdiff.interventions.evaluation import Evaluation, with_images_at
from vlmdiff.interventions.feature_ablation import FeatureAblation
from vlmdiff.interventions.matching import FEATURE
from vlmdiff.models.memory import spare_bytes
from vlmdiff.models.subject import Subject
from vlmdiff.tables.features import STATISTICS, TOTALS
from vlmdiff.tables.io import read_tables

ENCODERS_ON_CPU = 2 * 1024**3
# Tokens by which the share of removed variance is measured.
VARIANCE_TOKENS = 2048


@torch.no_grad()
def feature_activity(
    subject: Subject, evaluation: Evaluation, dictionaries: Mapping[int, Path], massive_ratio: float
) -> pd.DataFrame:
    """Return what every feature of every dictionary does on the text tokens of an evaluation's questions.

    Args:
        subject: the model.
        evaluation: the questions.
        dictionaries: folder of the dictionary of each layer.
        massive_ratio: multiple of its sample's median norm above which a token is left out; 0: none is.

    Returns:
        layer, feature, rate (share of the tokens on which it fires), energy (mean over all tokens of the
        squared length of what it writes, `z^2 |W_dec|^2`).
    """
    width = max(load_config_file(folder)["d_sae"] for folder in dictionaries.values())
    budget = spare_bytes(subject.device, on_cpu=ENCODERS_ON_CPU)
    frames = []
    for group in groups_in_memory(sorted(dictionaries), 4 * width * subject.d_model, budget):
        frames += group_activity(subject, evaluation, {at: dictionaries[at] for at in group}, massive_ratio)
    return pd.concat(frames, ignore_index=True)


def known_activity(
    subject: Subject,
    evaluation: Evaluation,
    dictionaries: Mapping[int, Path],
    massive_ratio: float,
    counted: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """Return the same of dictionaries and crosscoders alike.

    Args:
        subject, evaluation, dictionaries, massive_ratio: as of `feature_activity`.
        counted: of crosscoders the tables of `counted_activity`, else empty lists.
    """
    if counted["statistics"]:
        return counted_activity(counted, dictionaries)
    return feature_activity(subject, evaluation, dictionaries, massive_ratio)


def counted_activity(tables: Mapping[str, Sequence[str]], dictionaries: Mapping[int, Path]) -> pd.DataFrame:
    """Return what every feature of crosscoders does, from what was counted on stored activations.

    Their features fire by two models, so a pass of the tuned one alone does not tell.

    Args:
        tables: paths of `statistics` and `totals` of every layer, on the data set of the questions.
        dictionaries: folder of the crosscoder of each layer.

    Returns:
        as `feature_activity`; the energy is that of what a feature writes in the tuned model.
    """
    counts = read_tables(tables["statistics"], STATISTICS)
    sums = counts[counts["token_type"] == "text"].groupby(FEATURE)[["fires", "sum_squares"]].sum()
    totals = read_tables(tables["totals"], TOTALS)
    tokens = totals[totals["token_type"] == "text"].groupby("layer")["n_tokens"].sum()
    frames = []
    for layer, folder in dictionaries.items():
        lengths = squared_lengths(folder, crosscoder=True)
        features = np.arange(len(lengths))
        every = pd.MultiIndex.from_product([[layer], features], names=FEATURE)
        found = sums.reindex(every, fill_value=0) / tokens[layer]
        # A row that is zero for the tuned model writes nothing there, whatever fires it.
        fires = found["fires"].where(lengths > 0, 0.0)
        frames.append(found.assign(energy=found["sum_squares"] * lengths, fires=fires).reset_index())
    table = pd.concat(frames, ignore_index=True).rename(columns={"fires": "rate"})
    return table[[*FEATURE, "rate", "energy"]]


def group_activity(
    subject: Subject, evaluation: Evaluation, dictionaries: Mapping[int, Path], massive_ratio: float
) -> list[pd.DataFrame]:
    """Return the activity of a group of layers from one pass, as `feature_activity` does."""
    encoders = {
        layer: load_encoder(folder, subject.device, subject.d_model) for layer, folder in dictionaries.items()
    }
    sums = {layer: torch.zeros(2, one.d_sae, dtype=torch.float64) for layer, one in encoders.items()}
    tokens = dict.fromkeys(encoders, 0)
    for _, batch in evaluation.batches:
        residuals = subject.residuals(with_images_at(batch, subject.device), list(encoders))
        for layer, encoder in encoders.items():
            values = usual_text(residuals[layer], batch.token_type, massive_ratio)
            for part in values.split(max(1, CHUNK_VALUES // encoder.d_sae)):
                z = encoder.encode(part.to(encoder.W_enc))
                sums[layer] += torch.stack([(z > 0).sum(0), z.double().square().sum(0)]).cpu()
            tokens[layer] += len(values)
    return [
        pd.DataFrame(
            {
                "layer": layer,
                "feature": np.arange(found.shape[1]),
                "rate": found[0].numpy() / tokens[layer],
                "energy": found[1].numpy() / tokens[layer] * squared_lengths(dictionaries[layer]),
            }
        )
        for layer, found in sums.items()
    ]


def usual_text(
    residual: Float[Tensor, "samples sequence d_model"],
    token_type: UInt8[Tensor, "samples sequence"],
    massive_ratio: float,
) -> Float[Tensor, "tokens d_model"]:
    """Return the residual stream at text tokens, those of huge norm left out."""
    text = (token_type == TEXT).to(residual.device)
    return residual[text & ~massive_tokens(residual, token_type, massive_ratio)]


def squared_lengths(folder: Path, crosscoder: bool = False) -> np.ndarray:
    """Return the squared length of each decoder row, `(d_sae,)`; of a crosscoder of its tuned half."""
    with feature_rows(folder) as file:
        rows = np.asarray(file.decoder(0, file.shape[0]), dtype=np.float64)
    rows = halves(rows)[1] if crosscoder else rows
    return np.einsum("ij,ij->i", rows, rows)


@dataclass(frozen=True)
class Variance:
    """Text tokens of the clean residual stream, by which it is told how much of it an ablation removes.

    Attributes:
        centred: for each block, tokens without their mean, `(tokens, d_model)`.
    """

    centred: Mapping[int, Float[Tensor, "tokens d_model"]]

    @classmethod
    @torch.no_grad()
    def of(
        cls, subject: Subject, evaluation: Evaluation, layers: Sequence[int], massive_ratio: float
    ) -> Variance:
        """Take at most `VARIANCE_TOKENS` tokens of the first batches of an evaluation."""
        parts: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        found = 0
        for _, batch in evaluation.batches:
            residuals = subject.residuals(with_images_at(batch, subject.device), list(layers))
            for layer, residual in residuals.items():
                parts[layer].append(usual_text(residual, batch.token_type, massive_ratio).float())
            if (found := found + int((batch.token_type == TEXT).sum())) >= VARIANCE_TOKENS:
                break
        values = {layer: torch.cat(one)[:VARIANCE_TOKENS] for layer, one in parts.items()}
        return cls({layer: one - one.mean(dim=0) for layer, one in values.items()})

    def removed(self, ablation: FeatureAblation) -> float:
        """Return the share of the variance that an ablation's directions hold, mean over its blocks."""
        shares = [
            float((self.centred[layer] @ basis.to(self.centred[layer])).square().sum())
            / float(self.centred[layer].square().sum())
            for layer, basis in ablation.bases.items()
        ]
        return float(np.mean(shares)) if shares else 0.0
