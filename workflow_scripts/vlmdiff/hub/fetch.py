"""Bring files of a hub repository to this machine, through its cache."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from vlmdiff.config.sources import HubSource
from vlmdiff.runtime.disk_errors import CLOSED
from vlmdiff.runtime.secrets import redacted

RepositoryType = Literal["model", "dataset"]
PAGES = {"model": "https://huggingface.co", "dataset": "https://huggingface.co/datasets"}
log = logging.getLogger(__name__)


class HubError(ValueError):
    """Files of a hub repository cannot be had; the message says which, why and what to do."""


def fetch_repository(source: HubSource, patterns: Sequence[str], repo_type: RepositoryType = "model") -> Path:
    """Return the cached snapshot of a repository, downloading what is missing.

    With HF_HUB_OFFLINE set nothing is downloaded; the snapshot must be in the cache.

    Args:
        source: repository and revision.
        patterns: which files, as shell patterns over their paths.
        repo_type: kind of repository.

    Returns:
        The snapshot's folder, whose name is the commit.

    Raises:
        HubError: it cannot be had, or no file fits the patterns.
    """
    from huggingface_hub import snapshot_download

    with explained(source, repo_type):
        folder = Path(
            snapshot_download(
                source.repository,
                revision=source.revision,
                repo_type=repo_type,
                allow_patterns=list(patterns),
            )
        )
    if not any(path.is_file() for path in folder.rglob("*")):
        raise HubError(
            f"{where(source, repo_type)}: no file fits {list(patterns)}; check the repository's files on "
            f"{page(source, repo_type)}/tree/{source.revision}"
        )
    log.info("%s is %s", where(source, repo_type), folder)
    return folder


def fetch_file(source: HubSource, path: str, repo_type: RepositoryType = "model") -> Path:
    """Return one cached file of a repository, downloading it if it is missing.

    Raises:
        HubError: it cannot be had.
    """
    from huggingface_hub import hf_hub_download

    with explained(source, repo_type, path):
        return Path(hf_hub_download(source.repository, path, revision=source.revision, repo_type=repo_type))


def resolve_commit(source: HubSource, repo_type: RepositoryType = "model") -> str:
    """Return the commit that a revision stands for, from the hub, or from the cache when offline.

    Raises:
        HubError: it cannot be had.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        kept = Path(constants.HF_HUB_CACHE) / f"{repo_type}s--{source.repository.replace('/', '--')}"
        if (kept / "snapshots" / source.revision).is_dir():
            return source.revision
        reference = kept / "refs" / source.revision
        if reference.is_file():
            return reference.read_text().strip()
        raise HubError(f"{where(source, repo_type)}: {not_cached()}, then run snakemake again")
    with explained(source, repo_type):
        info = HfApi().repo_info(source.repository, revision=source.revision, repo_type=repo_type)
    return str(info.sha)


def commit_of(snapshot: Path) -> str:
    """Return the commit of a snapshot folder, or of a file inside one."""
    parts = snapshot.parts
    return parts[len(parts) - parts[::-1].index("snapshots")]


def page(source: HubSource, repo_type: RepositoryType) -> str:
    """Return the address of a repository's page."""
    return f"{PAGES[repo_type]}/{source.repository}"


def where(source: HubSource, repo_type: RepositoryType) -> str:
    """Name a repository in a message."""
    return f"hub {repo_type} {source.repository}@{source.revision}"


@contextmanager
def explained(source: HubSource, repo_type: RepositoryType, path: str = "") -> Iterator[None]:
    """Turn the hub library's errors into one `HubError` that says what to do."""
    from huggingface_hub import errors

    name = f"{where(source, repo_type)}{f', file {path}' if path else ''}"
    again = "then run snakemake again"
    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(
            f"{name}: access is gated; accept its terms at {page(source, repo_type)}, log in with "
            f"`hf auth login` (or set HF_TOKEN), {again}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"{name}: no such repository, or it is private; correct the name in the config, or log in with "
            f"`hf auth login` if it is yours, {again}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(
            f"{name}: the repository has no revision '{source.revision}'; see "
            f"{page(source, repo_type)}/commits/main and correct the config"
        ) from error
    except (errors.RemoteEntryNotFoundError, errors.DisabledRepoError) as error:
        raise HubError(
            f"{name}: the file is not there or not given out ({redacted(str(error))}); see "
            f"{page(source, repo_type)}/tree/{source.revision} and correct the config"
        ) from error
    except (
        errors.OfflineModeIsEnabled,
        errors.LocalEntryNotFoundError,
        errors.RevisionResolutionError,
    ) as error:
        raise HubError(f"{name}: {not_cached()}, {again}") from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise HubError(f"{name}: {redacted(str(error))}; {remedy(error)}, {again}") from error


def remedy(error: OSError) -> str:
    """Say what to do about an error of network or disk."""
    from huggingface_hub import constants

    if error.errno in (*CLOSED, errno.ENOENT):
        home = constants.HF_HOME
        return f"the cache HF_HOME ({home}) cannot be written: set HF_HOME to a folder of your own that can"
    return "check network, disk space and HF_HOME"


def not_cached() -> str:
    """Say why nothing was downloaded and what to do."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return (
            "not in the cache, and HF_HUB_OFFLINE forbids to download it; fetch it on a machine with network "
            f"(HF_HUB_OFFLINE=0) into the cache that HF_HOME names ({constants.HF_HOME})"
        )
    return (
        f"not in the cache, and {redacted(constants.ENDPOINT)} cannot be reached; check the network, or "
        f"fetch it on another machine into the cache that HF_HOME names ({constants.HF_HOME})"
    )
