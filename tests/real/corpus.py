"""English text that a package ships: paragraphs of Wikipedia articles, those of a few articles held out.

gensim's tests carry the first articles of a dump of the English Wikipedia (CC BY-SA 3.0), markup included.
"""

from __future__ import annotations

import bz2
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

DUMP = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
FEWEST_WORDS = 40  # of a paragraph; shorter ones are headings, captions and what is left of lists
HELD_OUT_EVERY = 5  # articles


def articles() -> Iterator[list[str]]:
    """Yield the paragraphs of each article, without markup, in the order of the dump."""
    from gensim.corpora.wikicorpus import extract_pages, filter_wiki

    with bz2.open(str(files("gensim") / DUMP)) as dump:
        for _, raw, _ in extract_pages(dump, filter_namespaces=("0",)):
            if not raw.lstrip().lower().startswith("#redirect"):
                yield list(paragraphs(filter_wiki(raw)))


def paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of prose: long enough, no list, no table, no heading."""
    for line in text.splitlines():
        words = line.replace("'''", "").replace("''", "").split()
        if len(words) >= FEWEST_WORDS and line[0] not in "*#:;|=!{}":
            yield " ".join(words)


def write_corpus(folder: Path) -> None:
    """Write train.jsonl and held_out.jsonl, one paragraph a line; every fifth article is held out."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "train.jsonl").open("w") as train, (folder / "held_out.jsonl").open("w") as held_out:
        for number, found in enumerate(articles()):
            file = held_out if number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 else train
            file.writelines(json.dumps({"text": paragraph}) + "\n" for paragraph in found)
