"""Decoding pictures from data sets: known formats, bounded sizes, one error for all damage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from vlmdiff.runtime.disk_errors import not_read
from vlmdiff.runtime.reading import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

# Others would be opened by further programs (PostScript), or are no pictures.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# A small file can unfold to any size; this many take 300 MB.
LARGEST_PIXELS = 100_000_000
# Values of more than 8 bits would be cut off instead of scaled.
DEEP_MODES = ("I", "F")
ORIENTATION = 0x0112
# What EXIF's orientations ask for, by the names of Pillow's transpositions.
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
SIDEWAYS = (5, 6, 7, 8)


@contextmanager
def opened(source: Path | BytesIO) -> Iterator[Image]:
    """Open a picture; whatever is wrong with it, also later in the body, is a DataError.

    Raises:
        DataError: saying what was found and expected; the caller names the picture.
        StorageError: the system does not let us read the file.
    """
    from PIL import Image

    try:
        with Image.open(source, formats=FORMATS) as image:
            check_kind(image)
            yield image
    except DataError:
        raise
    except Exception as error:  # damaged pictures make decoders fail in many ways
        damaged = DataError(f"{type(error).__name__}: {error}; expected a whole {', '.join(FORMATS)}")
        raise not_read(source, error) or damaged from error


def check_kind(image: Image) -> None:
    """Refuse what would take too much memory, or lose its values.

    Raises:
        DataError: saying what was found and expected.
    """
    width, height = image.size
    if not 0 < width * height <= LARGEST_PIXELS:
        raise DataError(f"found {width} x {height} pixels, expected 1 to {LARGEST_PIXELS}")
    if image.mode.startswith(DEEP_MODES):
        raise DataError(f"found values of more than 8 bits (mode {image.mode}), expected 8 bits a channel")


def orientation(image: Image) -> int:
    """Return EXIF's orientation; 1, which is upright, where none is given.

    Of a PNG only what stands before the pixels is read: looking behind them would decode them. Pillow turns
    a TIFF by itself.
    """
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    return image.getexif().get(ORIENTATION, 1)


def picture_size(source: Path | BytesIO) -> tuple[int, int]:
    """Return width and height of the upright picture, from its header.

    Raises:
        DataError: see `opened`.
    """
    with opened(source) as image:
        width, height = image.size
        return (height, width) if orientation(image) in SIDEWAYS else (width, height)


def load_picture(source: Path | BytesIO) -> Image:
    """Decode a picture wholly, upright, as RGB on white; of an animation or several pages the first.

    Raises:
        DataError: see `opened`.
    """
    from PIL import Image

    with opened(source) as image:
        turn = TURNS.get(orientation(image))
        loaded = on_white(image)
        return loaded.transpose(Image.Transpose[turn]) if turn else loaded


def on_white(image: Image) -> Image:
    """Return a picture as RGB; what is transparent shows white, in proportion.

    The colours that a file keeps under full transparency are nobody's to see: two files that look alike
    become the same pixels. Colour profiles are not applied.
    """
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    page = Image.new("RGB", layer.size, "white")
    page.paste(layer, mask=layer.getchannel("A"))
    return page
