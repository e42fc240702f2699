"""The table behind the figure of top-activating samples."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer

from vlmdiff.data.samples import load_samples
from vlmdiff.figures.values import read_some
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.loading import FROM_FOLDER
from vlmdiff.models.token_text import TokenTexts
from vlmdiff.runtime.disk_errors import not_read
from vlmdiff.tables.causal import RANKING
from vlmdiff.tables.features import FINAL_FEATURES, GALLERY, TOP_SAMPLES
from vlmdiff.tables.io import read_table, read_tables, write_table


class Span(NamedTuple):
    """A token of a prompt: its id and the characters `start:end` that it covers."""

    token_id: int
    start: int
    end: int


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Load a model's tokenizer without the model, as it reads a text alone: nothing is padded or cut.

    Raises:
        SubjectError: the folder holds none, or it is damaged.
    """
    file = Path(folder) / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(file)) if file.is_file() else converted(folder)
    except Exception as error:  # the libraries have no class of their own for damaged files
        damaged = SubjectError(
            f"{file}: no tokenizer to name the tokens of the top samples ({' '.join(str(error).split())}); "
            "fetch the checkpoint again, or save its tokenizer there with `save_pretrained`"
        )
        raise not_read(file, error) or damaged from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def converted(folder: str | Path) -> Tokenizer:
    """Return what transformers makes of a tokenizer that has other files, such as tokenizer.model."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, **FROM_FOLDER).backend_tokenizer


def prompt_spans(tokenizer: Tokenizer, prompt: str) -> list[Span]:
    """Tokenize a prompt alone, without special tokens."""
    encoded = tokenizer.encode(prompt, add_special_tokens=False)
    return [Span(token, *place) for token, place in zip(encoded.ids, encoded.offsets)]


def prompt_start(spans: Iterable[list[Span]], tokens: pd.DataFrame) -> int:
    """Find the position in the model's sequence at which prompts start.

    What precedes a prompt (BOS, image, template) is equally long for all samples of a data set. Each
    occurrence of the token in its prompt proposes a start; the true one is proposed most often.

    Args:
        spans: the tokens of each row's prompt.
        tokens: columns token_id and position, one row per prompt.
    """
    proposals = [
        position - place
        for row, token_id, position in zip(spans, tokens["token_id"], tokens["position"])
        for place, span in enumerate(row)
        if span.token_id == token_id
    ]
    return int(pd.Series(proposals, dtype="int64").mode().min()) if proposals else 0


def locate_tokens(tokenizer: Tokenizer, rows: pd.DataFrame) -> pd.DataFrame:
    """Add the token's text and its place in the prompt.

    Args:
        rows: columns prompt, token_id, position.

    Returns:
        The rows with token, token_start and token_end; -1 where the token lies outside of the prompt.
    """
    spans, texts = [prompt_spans(tokenizer, prompt) for prompt in rows["prompt"]], TokenTexts(tokenizer)
    start = prompt_start(spans, rows)
    places = []
    for row, token_id, position in zip(spans, rows["token_id"], rows["position"]):
        place = position - start
        inside = 0 <= place < len(row) and row[place].token_id == token_id
        places.append(row[place][1:] if inside else (-1, -1))
    return rows.assign(
        token=[texts.shown(token) for token in rows["token_id"]],
        token_start=[first for first, _ in places],
        token_end=[last for _, last in places],
    )


def best_features(ranking: pd.DataFrame, final: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return layer and feature of the best by validated effect, or by contrast where none was ranked."""
    order = ranking.sort_values("rank") if len(ranking) else final
    return order[["layer", "feature"]].drop_duplicates().head(count).reset_index(drop=True)


def strongest(
    top: pd.DataFrame, features: pd.DataFrame, groups: list[str] | None, count: int
) -> pd.DataFrame:
    """Return the `count` strongest samples of each feature over the groups, in the order of `features`."""
    rows = top if groups is None else top[top["group"].isin(groups)]
    rows = features.reset_index(names="order").merge(rows.drop(columns="rank"), on=["layer", "feature"])
    rows = rows.sort_values(["order", "activation", "sample_id"], ascending=[True, False, True])
    rows = rows.drop_duplicates(["order", "sample_id"])
    rows = rows.assign(rank=rows.groupby("order").cumcount())
    return rows[rows["rank"] < count]


def sample_rows(samples_file: str | Path) -> pd.DataFrame:
    """Return sample_id, prompt and image (path, empty for text) of a data set."""
    samples = load_samples(samples_file)
    folder = Path(samples_file).parent
    return pd.DataFrame(
        {
            "sample_id": [sample.sample_id for sample in samples],
            "prompt": [sample.prompt for sample in samples],
            "image": [str(folder / sample.image) if sample.image else "" for sample in samples],
        }
    )


def make_gallery(
    top_samples: Iterable[str | Path],
    ranking: Iterable[str | Path],
    final: str | Path,
    samples_file: str | Path,
    tokenizer_folder: str | Path,
    output: str | Path,
    concept: str,
    seed: int,
    groups: list[str] | None,
    features: int,
    samples: int,
) -> pd.DataFrame:
    """Write the GALLERY of the best `features` features with `samples` samples each, and return it.

    Args:
        top_samples: TOP_SAMPLES of the concept's target data, one file a layer.
        ranking: RANKING of the concept and seed; no file where nothing was ranked.
        final: FINAL_FEATURES of the concept and seed.
        samples_file: samples.jsonl of the target data.
        tokenizer_folder: folder of the model whose tokens the features saw.
        output: where the table goes.
        concept, seed: what to write into the table.
        groups: groups of the data set that show the concept; all if None.
        features, samples: rows and columns of the gallery.
    """
    chosen = best_features(read_some(ranking, RANKING), read_table(final, FINAL_FEATURES), features)
    # A layer's table holds millions of rows at real size, of which a few features are drawn.
    wanted = pc.field("feature").isin(pa.array(chosen["feature"], pa.int64()))
    rows = strongest(read_tables(top_samples, TOP_SAMPLES, rows=wanted), chosen, groups, samples)
    rows = rows.merge(sample_rows(samples_file), on="sample_id", validate="many_to_one")
    if len(rows):
        rows = locate_tokens(load_tokenizer(tokenizer_folder), rows)
    name = "L" + rows["layer"].astype(str) + "F" + rows["feature"].astype(str)
    table = rows.assign(concept=concept, seed=int(seed), name=name).sort_values(["order", "rank"])
    table = table.reindex(columns=GALLERY.names)
    write_table(table, GALLERY, output)
    return read_table(output, GALLERY)
