"""Damaged and hostile pictures: refused by name, or decoded to the very same pixels."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from damage import damaged_bytes, outcome, picture, refused, tries
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from vlmdiff.data.pictures import LARGEST_PIXELS, load_picture, picture_size
from vlmdiff.data.samples import Sample
from vlmdiff.figures.gallery import read_image

KINDS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
WHOLE = {kind: picture(kind) for kind in KINDS}


def sample(folder: Path, content: bytes) -> Sample:
    (folder / "picture").write_bytes(content)
    return Sample(sample_id="a", image="picture", prompt="what ?", group="g", folder=folder)


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def png(width: int, height: int, colour: int = 2, depth: int = 8, data: bytes = b"") -> bytes:
    """Return a PNG with any header."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", KINDS)
@tries(40)
@given(data=st.data())
def test_damaged_bytes_are_refused_by_name_or_harmless(tmp_path, kind, data):
    one = sample(tmp_path, data.draw(damaged_bytes(WHOLE[kind])))
    image, message = outcome(one.open_image, tmp_path / "picture")
    assert message is not None or image.mode == "RGB"
    outcome(one.image_size, tmp_path / "picture")


@pytest.mark.parametrize("kind", KINDS)
@tries(30)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_picture_is_refused_unless_no_pixel_is_lost(tmp_path, kind, share):
    content = WHOLE[kind][: int(share * len(WHOLE[kind]))]
    image, message = outcome(sample(tmp_path, content).open_image, tmp_path / "picture")
    assert message is not None or np.array_equal(np.asarray(image), pixels(WHOLE[kind]))


@tries(40)
@given(content=st.binary(max_size=300))
def test_what_is_no_picture_is_refused(tmp_path, content):
    refused(sample(tmp_path, content).open_image, tmp_path / "picture")


@tries(30)
@given(
    width=st.integers(0, 2**31 - 1), height=st.integers(0, 2**31 - 1), data=st.binary(max_size=60)
)  # fmt: skip
def test_a_header_that_promises_too_much_is_refused(tmp_path, width, height, data):
    one = sample(tmp_path, png(width, height, data=data))
    refused(one.open_image, tmp_path / "picture")
    if width * height > LARGEST_PIXELS or width * height == 0:
        refused(one.image_size, tmp_path / "picture")


def test_a_decompression_bomb_is_refused_before_it_unfolds(tmp_path):
    side = 30_000
    data = zlib.compress(b"\x00" * (side // 8 + 1) * side, 9)
    bomb = png(side, side, colour=0, depth=1, data=data)
    assert len(bomb) < 200_000
    message = refused(sample(tmp_path, bomb).open_image, tmp_path / "picture")
    assert "30000 x 30000" in message or "DecompressionBombError" in message


def test_a_compressed_text_that_unfolds_is_refused(tmp_path):
    body = b"Comment\x00\x00" + zlib.compress(bytes(200 * 2**20), 9)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    whole = WHOLE["PNG"]
    refused(sample(tmp_path, whole[:33] + chunk + whole[33:]).open_image, tmp_path / "picture")


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "SGI", "DDS"])
def test_formats_that_other_programs_would_open_are_refused(tmp_path, kind):
    refused(sample(tmp_path, picture(kind, (16, 16))).open_image, tmp_path / "picture")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_other_modes_become_colours(tmp_path, mode):
    content = picture("PNG", mode=mode)
    image = sample(tmp_path, content).open_image()
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), pixels(content))


def test_four_inks_become_colours(tmp_path):
    content = picture("JPEG", mode="CMYK")
    assert np.array_equal(np.asarray(sample(tmp_path, content).open_image()), pixels(content))


@pytest.mark.parametrize(("mode", "kind"), [("I;16", "PNG"), ("I;16", "TIFF"), ("I", "TIFF"), ("F", "TIFF")])
def test_values_of_more_than_eight_bits_are_refused_not_cut_off(tmp_path, mode, kind):
    stream = io.BytesIO()
    Image.fromarray(
        np.array([[300, 40_000], [5, 65_000]]).astype({"F": "f4", "I": "i4"}.get(mode, "u2"))
    ).save(stream, kind)
    message = refused(sample(tmp_path, stream.getvalue()).open_image, tmp_path / "picture")
    assert "more than 8 bits" in message


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_shown_upright(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = picture(kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    assert np.array_equal(np.asarray(load_picture(io.BytesIO(content))), np.asarray(upright))
    assert picture_size(io.BytesIO(content)) == upright.size


@tries(30)
@given(exif=st.binary(max_size=60))
def test_a_broken_orientation_is_refused_or_ignored(tmp_path, exif):
    content = picture("JPEG", exif=b"Exif\x00\x00" + exif)
    one = sample(tmp_path, content)
    image, message = outcome(one.open_image, tmp_path / "picture")
    assert message is not None or image.size == one.image_size()


def test_a_figure_names_the_picture_that_it_cannot_draw(tmp_path):
    (tmp_path / "picture.png").write_bytes(WHOLE["PNG"][:40])
    refused(lambda: read_image(tmp_path / "picture.png"), tmp_path / "picture.png")
    refused(lambda: read_image(tmp_path / "none.png"), tmp_path / "none.png")
