"""Write the weights and the text of `make real`: `python tests/real/prepare.py FOLDER [NAME …]`."""

from __future__ import annotations

import sys
from pathlib import Path

from corpus import write_corpus
from llava import write_llava
from weights import MODELS, write_model

LLAVA = "llava_smollm2"


def prepare(folder: Path, names: list[str]) -> None:
    """Write the named models, and `text/` with the corpus; what is there already stays."""
    for name in names:
        if name == LLAVA:
            prepare(folder, ["smollm2"])
            write_llava(folder / "smollm2", folder / name)
        else:
            write_model(name, folder / name)
    if not (folder / "text" / "held_out.jsonl").is_file():
        write_corpus(folder / "text")


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), sys.argv[2:] or [*MODELS, LLAVA])
