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


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_other_modes_become_colours(tmp_path, mode):
    content = picture("PNG", mode=mode)
    image = sample(tmp_path, content).open_image()
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), pixels(content))


COLOURS = np.array([[[200, 30, 90], [10, 250, 60]], [[0, 0, 0], [77, 77, 77]]], np.uint8)
ALPHA = np.array([[0, 255], [128, 51]], np.uint8)


def layers(colours: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([colours, ALPHA]))


def one_of_a_palette(**options) -> Image.Image:
    image = Image.new("P", (2, 2))
    image.putpalette([1, 2, 3, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2, 1])
    image.info.update(options)
    return image


def keyed(mode: str, key: object) -> Image.Image:
    image = Image.new(mode, (2, 2), 9)
    image.putpixel((0, 0), key)
    image.info["transparency"] = key
    return image


def saved(image: Image.Image, kind: str = "PNG", **options) -> io.BytesIO:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream


WHITE = [255, 255, 255]
# Shares of colour and of white, rounded.
SEEN = [[WHITE, [10, 250, 60]], [[127, 127, 127], [219, 219, 219]]]
PALETTE = [[WHITE, [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]]
FADED = [[WHITE, [198, 200, 203]], [[70, 80, 90], [198, 200, 203]]]
TRANSPARENT = {
    "RGBA": (saved(layers(COLOURS)), SEEN),
    "RGBA in WebP": (saved(layers(COLOURS), "WEBP", lossless=True), SEEN),
    "RGBA in TIFF": (saved(layers(COLOURS), "TIFF"), SEEN),
    "grey with alpha": (
        saved(Image.merge("LA", [Image.fromarray(COLOURS[..., 1]), Image.fromarray(ALPHA)])),
        [[WHITE, [250] * 3], [[127] * 3, [219] * 3]],
    ),
    "palette, one colour clear": (saved(one_of_a_palette(transparency=0)), PALETTE),
    "palette, a share each": (saved(one_of_a_palette(transparency=bytes([0, 68, 255]))), FADED),
    "palette in GIF": (saved(one_of_a_palette(transparency=0), "GIF", transparency=0), PALETTE),
    "a clear colour": (saved(keyed("RGB", (7, 8, 9))), [[WHITE, [9, 0, 0]], [[9, 0, 0], [9, 0, 0]]]),
    "a clear grey": (saved(keyed("L", 7)), [[WHITE, [9] * 3], [[9] * 3, [9] * 3]]),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_what_is_transparent_shows_white(tmp_path, name):
    stream, expected = TRANSPARENT[name]
    (tmp_path / "picture").write_bytes(stream.getvalue())
    assert np.asarray(load_picture(io.BytesIO(stream.getvalue()))).tolist() == expected
    # Models, figures and the check of a prepared data set read with one function.
    assert np.asarray(sample(tmp_path, stream.getvalue()).open_image()).tolist() == expected
    assert read_image(tmp_path / "picture").tolist() == expected


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_pictures_that_look_alike_are_the_same_pixels(kind):
    others = COLOURS.copy()
    others[0, 0] = [1, 2, 250]
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    one, other = (saved(layers(colours), kind, **options) for colours in (COLOURS, others))
    assert one.getvalue() != other.getvalue()
    assert np.array_equal(*(np.asarray(load_picture(stream)) for stream in (one, other)))


def test_a_transparent_picture_is_turned_as_others_are():
    exif = Image.Exif()
    exif[0x0112] = 6
    found = np.asarray(load_picture(saved(layers(COLOURS), exif=exif)))
    assert found.tolist() == np.rot90(np.array(SEEN), -1).tolist()


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_several_pictures_in_a_file_the_first_is_shown(kind):
    first, second = Image.new("RGB", (4, 3), (255, 0, 0)), Image.new("RGB", (4, 3), (0, 0, 255))
    options = {"lossless": True} if kind == "WEBP" else {}
    found = load_picture(saved(first, kind, save_all=True, append_images=[second], **options))
    assert np.asarray(found).reshape(-1, 3).tolist() == [[255, 0, 0]] * 12


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
