"""How well models read plain text, held against the first of them: whether a tuning kept the language."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import cross_entropy

from vlmdiff.data.batching import prepare_batches
from vlmdiff.data.samples import Sample, load_samples
from vlmdiff.interventions.bootstrap import resample_counts
from vlmdiff.interventions.inputs import ModelFiles
from vlmdiff.models.logits import precise_logits
from vlmdiff.models.subject import Subject, as_published
from vlmdiff.runtime.progress import progress
from vlmdiff.tables.io import write_table
from vlmdiff.tables.models import PERPLEXITY

RESAMPLES = 2_000
LEVEL = 0.95
HEAD_TOKENS = 512  # at once: their logits take 100 MB where a vocabulary has 50,000 tokens
log = logging.getLogger(__name__)


@torch.inference_mode()
def document_losses(
    subject: Subject, samples: Sequence[Sample], batch_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the summed cross-entropy in nats of each document, and its predicted tokens: (documents,) each.

    The first token of a document follows nothing, and is not predicted.

    Args:
        subject: the model.
        samples: plain texts.
        batch_tokens: most tokens of a batch, padding included.
    """
    losses, tokens = np.zeros(len(samples)), np.zeros(len(samples), dtype=int)
    batches = list(prepare_batches(subject, samples, batch_tokens))
    for indices, batch in progress(batches, "batches"):
        states = subject.run_decoder(batch, subject.embed(batch))
        real = batch.attention_mask[:, 1:].bool()
        rows = real.nonzero(as_tuple=True)[0].cpu().numpy()
        found = token_losses(subject, states[:, :-1][real], batch.input_ids[:, 1:][real])
        losses[indices] = np.bincount(rows, found, minlength=len(indices))
        tokens[indices] = np.bincount(rows, minlength=len(indices))
    return losses, tokens


def token_losses(subject: Subject, states: torch.Tensor, following: torch.Tensor) -> np.ndarray:
    """Return the cross-entropy of each token that follows a state, (tokens,)."""
    settings, parts = subject.model.config.get_text_config(), []
    for start in range(0, len(states), HEAD_TOKENS):
        part = slice(start, start + HEAD_TOKENS)
        logits = as_published(precise_logits(subject.head, states[part]), settings).float()
        parts.append(cross_entropy(logits, following[part].to(logits.device), reduction="none"))
    return torch.cat(parts).cpu().double().numpy()


def ratio_interval(
    losses: np.ndarray, tokens: np.ndarray, first: tuple[np.ndarray, np.ndarray], seed: int
) -> tuple[float, float]:
    """Return a bootstrap interval of the ratio of two perplexities on the same documents, which are drawn.

    Args:
        losses, tokens: of one model, as `document_losses` gives them.
        first: of the model that it is held against.
        seed: of the draws.
    """
    counts = resample_counts([np.arange(len(losses))], RESAMPLES, seed)
    mean = (counts @ losses) / (counts @ tokens)
    its = (counts @ first[0]) / (counts @ first[1])
    low, high = np.quantile(np.exp(mean - its), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def evaluate_perplexity(
    models: Sequence[ModelFiles],
    samples_jsonl: str | Path,
    dataset: str,
    batch_tokens: int,
    seed: int,
    table_csv: str | Path,
) -> None:
    """Measure perplexity of models on the same documents, each held against the first model.

    Args:
        models: the first one is what the others are held against.
        samples_jsonl: plain texts.
        dataset: its name.
        batch_tokens: most tokens of a batch, padding included.
        seed: of the bootstrap.
        table_csv: table to write (PERPLEXITY).
    """
    samples, rows, first = load_samples(samples_jsonl), [], None
    for files in models:
        losses, tokens = document_losses(files.load(), samples, batch_tokens)
        first = first or (losses, tokens)
        loss, reference = losses.sum() / tokens.sum(), first[0].sum() / first[1].sum()
        low, high = ratio_interval(losses, tokens, first, seed)
        rows.append(
            {
                "model": files.name,
                "dataset": dataset,
                "documents": len(samples),
                "tokens": int(tokens.sum()),
                "loss": loss,
                "perplexity": np.exp(loss),
                "ratio": np.exp(loss - reference),
                "ratio_low": low,
                "ratio_high": high,
            }
        )
        log.info("%s on %s: perplexity %.2f", files.name, dataset, rows[-1]["perplexity"])
    write_table(pd.DataFrame(rows), PERPLEXITY, table_csv)
