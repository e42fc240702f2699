"""Where sources lead: elsewhere, by how they begin, or by a path to one's own files or to what is shipped."""

from __future__ import annotations

from pathlib import Path

# How sources begin that are no paths: of the hub, the built-in world, SAELens' list of releases, and PyPI.
HUB, WORLD, RELEASE, PACKAGE = ELSEWHERE = ("hub:", "world:", "saelens:", "pypi:")


def workflow_folder(module: Path) -> Path | None:
    """Return the folder of the workflow that a module of this room belongs to; None of an installed library.

    Args:
        module: file of the module.
    """
    library = module.resolve().parents[2]
    found = library.name == "workflow_scripts" and (library.parent / "Snakefile").is_file()
    return library.parent if found else None


ROOT = workflow_folder(Path(__file__))
# The folders in it that hold what a configuration may name.
SHIPPED = ("resources", "config")


def shipped(path: str) -> str:
    """Return where something shipped lies, from the working directory on if it lies inside of that.

    Results of a project that holds the workflow then stay as they are when the whole project moves.

    Args:
        path: its path in the folder of the workflow; an installed library leaves it as it is.
    """
    if ROOT is None:
        return path
    place, here = ROOT / path, Path.cwd().resolve()
    return str(place.relative_to(here) if place.is_relative_to(here) else place)


def located(path: str) -> str:
    """Return where a path leads: into the working directory, or else to what the workflow ships.

    Args:
        path: as the configuration says; what is neither there nor shipped stays as it is.
    """
    parts = Path(path).parts
    if ROOT is None or not parts or parts[0] not in SHIPPED or ".." in parts:
        return path
    try:
        return shipped(path) if not Path(path).exists() and (ROOT / path).exists() else path
    except (OSError, ValueError):
        # A name that the system cannot look up leads nowhere.
        return path
