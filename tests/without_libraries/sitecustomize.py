"""Python imports this at its start where tests/unit/test_environments.py has put this folder on PYTHONPATH.

The process then has no library but Snakemake's own, as one that leaves all jobs to conda environments.
"""

import os
import sys
from importlib.machinery import PathFinder

MISSING = frozenset(os.environ["WITHOUT_LIBRARIES"].split())


class WithoutLibraries(PathFinder):
    """Finds what lies on the path, without the libraries that WITHOUT_LIBRARIES names."""

    @classmethod
    def find_spec(cls, name: str, *arguments: object) -> object:
        """Return a module's place; None if there is none."""
        return None if name.partition(".")[0] in MISSING else super().find_spec(name, *arguments)


sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutLibraries
