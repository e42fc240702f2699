"""Ways to damage things, and what must come of it: one error of the library's own, or no difference."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from PIL import Image

Found = TypeVar("Found")

CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


def tries(count: int) -> settings:
    """Return settings for a number of generated inputs, the same on every run."""
    return settings(max_examples=count, deadline=None, derandomize=True, suppress_health_check=CHECKS)


def is_own(error: BaseException) -> bool:
    """Tell whether the library itself defines an error's class."""
    return type(error).__module__.startswith("vlmdiff.")


def outcome(action: Callable[[], Found], *names: object) -> tuple[Found | None, str | None]:
    """Return (what an action gives, None), or (None, the message of its error).

    An error of a class that is not the library's own fails the test, as does a message that names none of
    `names`, is empty, or is longer than anybody reads.
    """
    try:
        return action(), None
    except Exception as error:
        assert is_own(error), f"{type(error).__name__}: {error}"
        message = str(error)
        assert not names or any(str(name) in message for name in names), message
        assert 20 < len(message) < 4000, message
        return None, message


def refused(action: Callable[[], Any], *names: object) -> str:
    """Return the message of an action that must fail; see `outcome`."""
    value, message = outcome(action, *names)
    assert message is not None, f"accepted: {value!r}"
    return message


@contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """Check that a body that fails leaves a folder as it was, temporary files included."""

    def content() -> dict[Path, bytes | None]:
        found = sorted(folder.rglob("*"))
        return {path: path.read_bytes() if path.is_file() else None for path in found}

    before = content()
    yield
    assert content() == before


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from(
        ["../../x", "/etc/passwd", "a\x00b", "x" * 5000, "\ud800", "nan", "-1", {}, [], "", 0, -1]
    ),
)


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path of every value inside a JSON value, itself included."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def put(value: Any, path: tuple, new: Any) -> Any:
    """Return a JSON value with the value at a path replaced, or without it if `new` is `...`."""
    if not path:
        return new
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if new is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return value


@st.composite
def damaged_json(draw: st.DrawFn, value: Any) -> tuple[tuple, Any, Any]:
    """Draw (path, what is put there, the whole) of a JSON value of which one part is replaced or gone."""
    path = draw(st.sampled_from([place for place in places(value) if place]))
    new = draw(st.one_of(st.just(...), JUNK))
    return path, new, put(value, path, new)


@st.composite
def damaged_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw truncated, zeroed, flipped or foreign bytes in the place of some."""
    kind = draw(st.sampled_from(["truncate", "zero", "flip", "random", "double"]))
    if kind == "truncate":
        return data[: draw(st.integers(0, len(data) - 1))]
    if kind == "random":
        return draw(st.binary(max_size=200))
    start = draw(st.integers(0, len(data) - 1))
    if kind == "double":
        return data[:start] + data[max(0, start - 50) :]
    if kind == "zero":
        stop = min(len(data), start + draw(st.integers(1, 4096)))
        return data[:start] + bytes(stop - start) + data[stop:]
    return data[:start] + bytes([data[start] ^ draw(st.integers(1, 255))]) + data[start + 1 :]


def dumped(value: Any) -> str:
    """Write JSON as Python writes it, lone halves of characters and NaN included."""
    return json.dumps(value)


def picture(kind: str = "PNG", size: tuple[int, int] = (9, 7), mode: str = "RGB", **options: Any) -> bytes:
    """Return the bytes of a picture whose pixels all differ."""
    image = Image.new("RGB", size)
    image.putdata([(7 * i % 256, 13 * i % 256, 29 * i % 256) for i in range(size[0] * size[1])])
    stream = io.BytesIO()
    image.convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def mounting(folder: Path, *options: str) -> None:
    """Mount a small file system in memory on a folder; skip the test where that is not possible."""
    import os
    import shutil
    import subprocess

    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a file system needs root")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
