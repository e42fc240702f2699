"""Where images of a prepared data set come from: each is found, missing or an error, never invented."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from vlmdiff.data.pictures import load_picture
from vlmdiff.runtime.files import replacing
from vlmdiff.runtime.reading import DataError, safe_name, within
from vlmdiff.runtime.secrets import redacted

if TYPE_CHECKING:
    import requests

TIMEOUT_S = 30.0
ATTEMPTS = 5
LARGEST_BYTES = 100 * 2**20
GONE = (404, 410)
AGENT = "vlmdiff (research)"


class MissingImageError(DataError):
    """An image cannot be shown: it does not exist."""


class DamagedImageError(MissingImageError):
    """An image cannot be shown: what is there is no whole image."""


@dataclass(frozen=True)
class LocalImage:
    """An image in a folder, under one of several names.

    Attributes:
        root: folder that the data set's `images` links to.
        names: paths within it, of which the first that exists is taken.
    """

    root: Path
    names: Sequence[str]

    def place(self, _images: Path) -> str:
        """Return the path of the image within the data set's `images`.

        Raises:
            MissingImageError: none of the names is an image.
        """
        for name in self.names:
            try:
                file = within(self.root, name)
            except DataError as error:
                raise MissingImageError(f"image: {error}") from None
            if file.is_file():
                check_image(file, str(file))
                return name
        others = f" (and {len(self.names) - 1} other names)" if len(self.names) > 1 else ""
        raise MissingImageError(f"{self.root / self.names[0]}{others}")


@dataclass(frozen=True)
class KnownImage:
    """An image of another data set, where it was looked at.

    Attributes:
        file: where it lies.
        name: its path within the folder that the data set's `images` links to.
    """

    file: Path
    name: str

    def place(self, _images: Path) -> str:
        """Return the path of the image within `images`; see `LocalImage.place`."""
        if not self.file.is_file():
            raise MissingImageError(str(self.file))
        return self.name


@dataclass(frozen=True)
class StoredImage:
    """An image whose bytes the source brings along.

    Attributes:
        name: file name, the same for the same picture.
        content: its bytes; None if the source has none.
    """

    name: str
    content: bytes | None

    def place(self, images: Path) -> str:
        """Write the image unless it is there; see `LocalImage.place`."""
        if not self.content:
            raise MissingImageError(f"{self.name} has no bytes")
        check_image(io.BytesIO(self.content), self.name)
        name = safe_name(self.name)
        if not (images / name).is_file() or (images / name).read_bytes() != self.content:
            with replacing(images / name) as temporary:
                temporary.write_bytes(self.content)
        return name


def stored_image(image: Any, name: str, place: str, remedy: str) -> StoredImage:
    """Return the image that a cell of a published table holds.

    Args:
        image: what the cell holds, as it is stored.
        name: of its file, without an ending.
        place: of the cell, for messages.
        remedy: what to do if it holds something else.

    Raises:
        DataError: it holds something else than bytes or nothing.
    """
    content = image.get("bytes") if isinstance(image, Mapping) else None
    if not isinstance(content, bytes | None) or not isinstance(image, Mapping | None):
        raise DataError(f"{place}: found {type(image).__name__}, expected its bytes; {remedy}")
    suffix = ".png" if (content or b"").startswith(b"\x89PNG") else ".jpg"
    return StoredImage(f"{name}{suffix}", content)


@dataclass(frozen=True)
class LinkedImage:
    """An image on the network, kept in a cache.

    Attributes:
        url: its address.
        cache: folder that the data set's `images` links to.
    """

    url: str
    cache: Path

    def place(self, _images: Path) -> str:
        """Fetch the image unless the cache has it whole; see `LocalImage.place`.

        Raises:
            DataError: the network fails again and again.
        """
        name = cached_name(self.url)
        with suppress(MissingImageError):
            check_image(self.cache / name, name)
            return name
        content = download(self.url)
        check_image(io.BytesIO(content), redacted(self.url))
        with replacing(self.cache / name) as temporary:
            temporary.write_bytes(content)
        return name


@runtime_checkable
class Picture(Protocol):
    """Where an image comes from."""

    def place(self, images: Path) -> str:
        """See `LocalImage.place`."""


def cached_name(url: str) -> str:
    """Return the file of an address: its last two parts, with a digest so that no two addresses share one."""
    path = PurePosixPath(url.partition("://")[2].partition("?")[0])
    digest = hashlib.sha256(url.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{safe_name(path.parent.name)}/{safe_name(f'{path.stem}-{digest}{path.suffix}')}"


def check_image(source: Path | io.BytesIO, name: str) -> None:
    """Refuse what is no whole image.

    Raises:
        DamagedImageError: naming the image.
    """
    try:
        load_picture(source)
    except DataError as error:
        raise DamagedImageError(f"{name} is not a whole image ({error})") from error


_sessions = threading.local()


def download(url: str) -> bytes:
    """Fetch an address, with patience: failures of the network and the server are tried again.

    Raises:
        MissingImageError: the server says that there is no such image.
        DataError: it cannot be had after several attempts.
    """
    import requests
    from tenacity import (
        RetryError,
        Retrying,
        retry_if_exception_type,
        stop_after_attempt,
        wait_exponential_jitter,
    )

    check_address(url)
    if not hasattr(_sessions, "session"):
        _sessions.session = requests.Session()
        _sessions.session.headers["User-Agent"] = AGENT
    patient = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential_jitter(initial=0.2, max=10.0),
        retry=retry_if_exception_type(requests.RequestException),
    )
    try:
        for attempt in patient:
            with attempt, _sessions.session.get(url, timeout=TIMEOUT_S, stream=True) as answer:
                if answer.status_code in GONE:
                    raise MissingImageError(f"{redacted(url)} (status {answer.status_code})")
                answer.raise_for_status()
                return bounded(answer, url)
    except RetryError as error:
        cause = error.last_attempt.exception()
        raise DataError(
            f"{redacted(url)}: cannot be fetched after {ATTEMPTS} attempts ({redacted(str(cause))}); check "
            "the network and run again (what was fetched is kept), or name a local folder of COCO images "
            "with `images`"
        ) from cause
    raise AssertionError("unreachable")


def check_address(url: str) -> None:
    """Refuse what is no plain web address.

    Raises:
        DataError: naming what was found.
    """
    import requests

    try:
        requests.Request("GET", url).prepare()
        plain = url.lower().startswith(("http://", "https://")) and "@" not in url
    except (requests.RequestException, ValueError):
        plain = False
    if not plain:
        raise DataError(
            f"image link: found {redacted(url)[:200]!r}, expected http:// or https:// without user and "
            "password; correct the annotations"
        )


def bounded(answer: requests.Response, url: str) -> bytes:
    """Return the body of an answer.

    Raises:
        MissingImageError: it is larger than any picture should be.
    """
    content = bytearray()
    for part in answer.iter_content(2**16):
        content += part
        if len(content) > LARGEST_BYTES:
            raise MissingImageError(f"{redacted(url)} has more than {LARGEST_BYTES} bytes")
    return bytes(content)
