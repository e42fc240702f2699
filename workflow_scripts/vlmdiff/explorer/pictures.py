"""Small copies of pictures for the page."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path

from vlmdiff.data.samples import Sample

# Edges of a patch, as fractions of the picture, and the digits that are kept of them: more cannot be seen.
EDGES = ("left", "top", "right", "bottom")
DIGITS = 4


class Thumbnails:
    """Small copies of pictures, one file for each content.

    Args:
        folder: where they go.
        side: most pixels of a side; pictures that are smaller keep theirs.
    """

    def __init__(self, folder: Path, side: int) -> None:
        self.folder, self.side = folder, side
        self.made: dict[Path, str] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, sample: Sample) -> str:
        """Return the place of a sample's picture, from the page's folder on."""
        if sample.image_file not in self.made:
            image = sample.open_image()
            image.thumbnail((self.side, self.side))
            content = BytesIO()
            # A drawing of few pixels would blur; photographs take a tenth of the bytes as JPEG.
            kind = "png" if max(image.size) <= 64 else "jpeg"
            image.save(content, kind, quality=85)
            name = f"{hashlib.sha256(content.getvalue()).hexdigest()[:16]}.{kind}"
            (self.folder / name).write_bytes(content.getvalue())
            self.made[sample.image_file] = f"{self.folder.name}/{name}"
        return self.made[sample.image_file]
