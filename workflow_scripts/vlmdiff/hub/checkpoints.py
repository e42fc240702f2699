"""Put a checkpoint of the hub where the workflow looks for it."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from vlmdiff.config.sources import HubSource
from vlmdiff.hub.fetch import HubError, commit_of, fetch_repository, page
from vlmdiff.runtime.disk_errors import not_read
from vlmdiff.runtime.files import replacing_folder

PATTERNS = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
# Older repositories have no safetensors; these are unpickled with `weights_only`, which runs no code.
PICKLED = "pytorch_model*.bin"
# The one folder of a repository that is read: chat templates beside the default one.
TEMPLATES = "additional_chat_templates"
log = logging.getLogger(__name__)


def fetch_checkpoint(source: str, folder: str | Path) -> None:
    """Fill a folder with a checkpoint: config.json as a copy, all else as links into the hub's cache.

    Beside them `hub.json` records repository, revision and the commit that the revision stood for. A
    folder that was filled from the same revision keeps its commit, so that a branch that moves on does
    not change results; delete the folder to follow it. `commit.json` is what stands for the weights when
    Snakemake asks whether a model has changed.

    Args:
        source: `hub:OWNER/NAME@REVISION`.
        folder: made anew.

    Raises:
        HubError: the checkpoint cannot be had, or has no weights.
    """
    wanted, target = HubSource.parse(source), Path(folder)
    pinned = HubSource(wanted.repository, recorded_commit(target, wanted) or wanted.revision)
    snapshot = fetch_repository(pinned, PATTERNS)
    if not list(snapshot.glob("*.safetensors")):
        snapshot = fetch_repository(pinned, (*PATTERNS, PICKLED))
    if not [*snapshot.glob("*.safetensors"), *snapshot.glob(PICKLED)]:
        raise HubError(
            f"{page(wanted, 'model')}: found neither *.safetensors nor {PICKLED} at revision "
            f"{wanted.revision}; choose a repository with the whole model's weights"
        )
    with replacing_folder(target) as made:
        files = sorted(
            path.relative_to(snapshot)
            for path in [*snapshot.iterdir(), *(snapshot / TEMPLATES).glob("*.jinja")]
            if path.is_file()
        )
        for name in files:
            (made / name).parent.mkdir(exist_ok=True)
            if name == Path("config.json"):
                shutil.copyfile(snapshot / name, made / name)
            else:
                (made / name).symlink_to((snapshot / name).resolve())
        sizes = {str(name): (snapshot / name).stat().st_size for name in files}
        write_record(made / "hub.json", wanted, commit_of(snapshot), sizes)
        commit = {"repository": wanted.repository, "commit": commit_of(snapshot)}
        (made / "commit.json").write_text(json.dumps(commit) + "\n")
    log.info("%s: %d files of commit %s", target, len(files), commit_of(snapshot))


def recorded_commit(folder: Path, wanted: HubSource) -> str | None:
    """Return the commit that a folder was filled with from the same repository and revision."""
    file = folder / "hub.json"
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text())
        same = (found["repository"], found["revision"]) == (wanted.repository, wanted.revision)
        return str(found["commit"]) if same else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        if problem := not_read(file, error):
            raise problem from error
        log.warning("%s is damaged (%s); %s is fetched anew", file, error, wanted.repository)
        return None


def write_record(file: Path, source: HubSource, commit: str, sizes: dict[str, int]) -> None:
    """Write what a folder was filled with; `sizes` are bytes by file."""
    values = {
        "repository": source.repository,
        "revision": source.revision,
        "commit": commit,
        "files": sizes,
    }
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
