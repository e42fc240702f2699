"""Write a figure as PDF, SVG and PNG, byte for byte the same on every run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType

from matplotlib.figure import Figure

from vlmdiff.figures.fonts import DEFAULT
from vlmdiff.figures.style import style
from vlmdiff.runtime.files import replacing

DPI = 300
# A time stamp would make every run's file differ.
METADATA = MappingProxyType({".pdf": {"CreationDate": None}, ".svg": {"Date": None}, ".png": {}})


def save_figure(figure: Figure, paths: Iterable[str | Path]) -> None:
    """Save a figure under each path; the format follows the suffix.

    Raises:
        ValueError: a suffix is none of .pdf, .svg, .png.
    """
    for path in sorted(Path(item) for item in paths):
        if path.suffix not in METADATA:
            raise ValueError(f"{path}: unknown figure format '{path.suffix}'; use one of {sorted(METADATA)}")
        with replacing(path) as temporary, style(getattr(figure, "font_families", [DEFAULT])):
            figure.savefig(temporary, format=path.suffix[1:], dpi=DPI, metadata=METADATA[path.suffix])
