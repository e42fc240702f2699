"""Where something comes from: a local path, the built-in world, or a pinned repository of the hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

HUB = "hub:"


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


def is_hub(source: str) -> bool:
    """Tell whether a source is a repository of the hub."""
    return source.startswith(HUB)


def check_path(path: str) -> str:
    """Refuse a path that Snakemake cannot name: it reads braces as wildcards, in every path.

    Raises:
        ValueError: naming the path and what to do.
    """
    if "{" in path or "}" in path:
        raise ValueError(f"found '{path}', expected a path without braces; rename it, or link to it")
    return path


def check_source(source: str) -> str:
    """Refuse a hub source of a wrong form, and a path with braces."""
    if is_hub(source):
        HubSource.parse(source)
    return check_path(source)


LocalPath = Annotated[str, AfterValidator(check_path)]
Source = Annotated[str, AfterValidator(check_source)]
