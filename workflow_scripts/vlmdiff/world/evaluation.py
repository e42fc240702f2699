"""Held-out accuracy of the world's checkpoints, as `evaluate_model` measures that of any model."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from transformers import AutoConfig

from vlmdiff.data.samples import load_samples
from vlmdiff.interventions.accuracy import accuracies
from vlmdiff.models.registry import load_subject
from vlmdiff.tables.io import write_table
from vlmdiff.tables.models import ACCURACY

BATCH_TOKENS = 8192


def evaluate_models(
    model_dirs: Mapping[str, Path], sample_files: Mapping[str, Path], seed: int, table_csv: Path
) -> None:
    """Evaluate every checkpoint on every data set under every condition that it can be put to.

    Args:
        model_dirs: Hugging Face folder of each checkpoint, by name.
        sample_files: samples.jsonl of each data set, by name.
        seed: the configuration's seed; decides how images are shuffled.
        table_csv: table to write, by the accuracy contract.
    """
    datasets = {name: load_samples(path) for name, path in sample_files.items()}
    parts = []
    for name, folder in model_dirs.items():
        sees = AutoConfig.from_pretrained(folder).model_type == "llava"
        subject = load_subject(name, {"family": "llava" if sees else "causal_lm"}, folder)
        parts.append(accuracies(subject, name, datasets, BATCH_TOKENS, seed))
    write_table(pd.concat(parts, ignore_index=True), ACCURACY, table_csv)
