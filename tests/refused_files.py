"""Files of every kind that this project reads, read on a file system that refuses (`refusals.c` preloaded).

`python refused_files.py FOLDER` writes them all, reads them, then reads them again while the system refuses;
it prints JSON: what came of each.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from damage import picture
from PIL import Image
from sparse_activations import write_sparse_shards

from vlmdiff.activations.store import ActivationStore
from vlmdiff.data.images import LocalImage
from vlmdiff.data.samples import load_samples
from vlmdiff.dictionaries.files import load_dictionary, save_dictionary
from vlmdiff.dictionaries.modules import TopKDictionary
from vlmdiff.dictionaries.partial_reads import feature_rows
from vlmdiff.dictionaries.published.content import read_safetensors
from vlmdiff.dictionaries.published.gemma_scope import read_arrays
from vlmdiff.dictionaries.published.mmdiff import read_pickle
from vlmdiff.figures.gallery import read_image
from vlmdiff.runtime.locks import claim
from vlmdiff.runtime.records import check_inputs, read_record, write_records
from vlmdiff.tables.io import read_table, write_table

SCHEMA = pa.schema([("n", pa.int64())])
FRAME = pd.DataFrame({"n": [1, 2, 3]})
LINE = {"sample_id": "a", "prompt": "what ?", "group": "g", "image": "picture.png"}


def written(root: Path) -> dict[str, tuple[str, Callable[[], object]]]:
    """Write the files; return by name which of them is refused, and what reads it."""
    root.mkdir()
    # Records are found by paths as Snakemake names them.
    os.chdir(root)
    folder = Path("results/experiment")
    folder.mkdir(parents=True)
    with claim(folder / "job.lock"):
        shards = write_sparse_shards(folder, tokens=400, layers=(0,), blocks=1)
        for name in ("table.parquet", "table.csv"):
            write_table(FRAME, SCHEMA, folder / name)
        dictionary = TopKDictionary(8, 16, 2)
        torch.nn.init.normal_(dictionary.W_dec)
        save_dictionary(dictionary, folder / "sae", {})
    write_records([shards[0]], {"job": "extract"})
    (folder / "picture.png").write_bytes(picture())
    (folder / "samples.jsonl").write_text(json.dumps(LINE) + "\n")
    np.savez(folder / "params.npz", a=np.ones(3))
    torch.save({"a": torch.ones(3)}, folder / "layer.pt")
    record = folder / "provenance" / f"{shards[0].name}.json"
    return {
        "shard": (shards[0].name, lambda: ActivationStore(shards, 0).n_tokens(["text"])),
        "inputs": (shards[0].name, lambda: check_inputs(shards)),
        "record": (record.name, lambda: sorted(read_record(record))),
        "parquet": ("table.parquet", lambda: read_table(folder / "table.parquet", SCHEMA)["n"].tolist()),
        "csv": ("table.csv", lambda: read_table(folder / "table.csv", SCHEMA)["n"].tolist()),
        "dictionary": ("sae_weights.safetensors", lambda: load_dictionary(folder / "sae").d_sae),
        "rows": ("sae_weights.safetensors", lambda: rows(folder / "sae")),
        "cfg": ("cfg.json", lambda: load_dictionary(folder / "sae").d_sae),
        "samples": ("samples.jsonl", lambda: len(load_samples(folder / "samples.jsonl"))),
        "picture": ("picture.png", lambda: load_samples(folder / "samples.jsonl")[0].open_image().size),
        "size": ("picture.png", lambda: load_samples(folder / "samples.jsonl")[0].image_size()),
        "figure": ("picture.png", lambda: read_image(folder / "picture.png").shape),
        "missing": ("picture.png", lambda: LocalImage(folder, ["picture.png"]).place(folder)),
        "npz": ("params.npz", lambda: list(read_arrays(folder / "params.npz"))),
        "pt": ("layer.pt", lambda: list(read_pickle(folder / "layer.pt"))),
        "safetensors": (
            "sae_weights.safetensors",
            lambda: len(read_safetensors(folder / "sae" / "sae_weights.safetensors")),
        ),
    }


def rows(folder: Path) -> list[int]:
    """Read one decoder row."""
    with feature_rows(folder) as file:
        return list(file.decoder(0, 1).shape)


def tried(action: Callable[[], object]) -> list[str]:
    """Return what an action gives, or kind and text of its error."""
    try:
        return ["", json.dumps(action())]
    except Exception as error:
        return [type(error).__name__, str(error)]


def locks_refused(path: Path) -> bool:
    """Tell whether this process can lock nothing."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            return True
    return False


def main(root: Path) -> dict:
    """Write, read, and read again while the system refuses."""
    Image.init()
    readers = written(root)
    found = {"no locks": locks_refused(root / "probe")}
    found["plain"] = {name: tried(read) for name, (_, read) in readers.items()}
    for how, number in (("OPEN", 13), ("OPEN", 116), ("OPEN", 24), ("READ", 5)):
        for name, (file, read) in readers.items():
            os.environ |= {"REFUSED": file, f"REFUSE_{how}": str(number)}
            found[f"{how} {number} {name}"] = tried(read)
            del os.environ["REFUSED"], os.environ[f"REFUSE_{how}"]
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
