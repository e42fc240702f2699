"""Images with one change: mirrored, with other colours or brightness, or with a box filled in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vlmdiff.config.transforms import Transform
from vlmdiff.data.images import MissingImageError, check_image
from vlmdiff.data.pictures import load_picture
from vlmdiff.runtime.files import replacing

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow's circle of hues has as many steps.
HUES = 256


def transformed(image: Image, change: Transform) -> Image:
    """Return an image with one change, of the same size.

    Args:
        image: in RGB.
        change: what is done to it.
    """
    from PIL import ImageEnhance, ImageOps

    if change.mirror is not None:
        return ImageOps.mirror(image) if change.mirror == "left_right" else ImageOps.flip(image)
    if change.brightness is not None:
        return ImageEnhance.Brightness(image).enhance(change.brightness)
    return turned(image, change.hue) if change.hue is not None else masked(image, change.mask)


def turned(image: Image, share: float) -> Image:
    """Return an image whose hues are turned by a share of the circle; greys stay."""
    from PIL.Image import merge

    hue, saturation, value = image.convert("HSV").split()
    steps = round(share * HUES)
    hue = hue.point([(level + steps) % HUES for level in range(HUES)])
    return merge("HSV", (hue, saturation, value)).convert("RGB")


def masked(image: Image, box: tuple[float, float, float, float]) -> Image:
    """Return an image with a box filled with the mean colour of the whole."""
    values = np.asarray(image)
    mean = tuple(int(round(value)) for value in values.reshape(-1, values.shape[-1]).mean(0))
    width, height = image.size
    found = image.copy()
    left, top, right, bottom = (round(share * size) for share, size in zip(box, (width, height) * 2))
    found.paste(mean, (left, top, right, bottom))
    return found


@dataclass(frozen=True)
class TransformedImage:
    """An image of another data set with one change.

    Attributes:
        file: where the image lies.
        name: its path there.
        change: what is done to it.
    """

    file: Path
    name: str
    change: Transform

    def place(self, images: Path) -> str:
        """Write the changed image; see `LocalImage.place`."""
        if not self.file.is_file():
            raise MissingImageError(str(self.file))
        check_image(self.file, str(self.file))
        name = f"{self.name}.png"
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        with replacing(images / name) as temporary:
            transformed(load_picture(self.file), self.change).save(temporary, "PNG")
        return name
