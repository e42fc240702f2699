"""Where relative paths lead: into the working directory, or to what is shipped with the workflow."""

from __future__ import annotations

from pathlib import Path

# The folder of the workflow that this library belongs to; an installed library has none.
ROOT = Path(__file__).resolve().parents[3]
# The folders in it that hold what a configuration may name.
SHIPPED = ("resources", "config")


def shipped(path: str) -> str:
    """Return where something shipped lies, from the working directory on if it lies inside of that.

    Results of a project that holds the workflow then stay as they are when the whole project moves.

    Args:
        path: its path in the folder of the workflow.
    """
    place, here = ROOT / path, Path.cwd().resolve()
    return str(place.relative_to(here) if place.is_relative_to(here) else place)


def located(path: str) -> str:
    """Return a path of the configuration, found in the working directory first, then in the workflow's folder.

    Args:
        path: as the configuration says; what is neither there nor shipped is returned as it is.
    """
    parts = Path(path).parts
    if not parts or parts[0] not in SHIPPED or ".." in parts:
        return path
    try:
        return shipped(path) if not Path(path).exists() and (ROOT / path).exists() else path
    except (OSError, ValueError):
        # A name that the system cannot look up leads nowhere.
        return path
