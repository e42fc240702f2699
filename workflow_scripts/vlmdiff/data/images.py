"""Where images of a prepared data set come from: each is found, missing or an error, never invented."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vlmdiff.data.samples import DataError
from vlmdiff.runtime.files import replacing

TIMEOUT_S = 30.0
ATTEMPTS = 5
GONE = (404, 410)
AGENT = "vlmdiff (research)"


class MissingImageError(DataError):
    """An image does not exist, or is none."""


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
            if (self.root / name).is_file():
                check_image((self.root / name).read_bytes(), str(self.root / name))
                return name
        raise MissingImageError(f"{self.root / self.names[0]} (and {len(self.names) - 1} other names)")


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
        """Write the image once; see `LocalImage.place`."""
        if not self.content:
            raise MissingImageError(f"{self.name} has no bytes")
        check_image(self.content, self.name)
        if not (images / self.name).is_file():
            with replacing(images / self.name) as temporary:
                temporary.write_bytes(self.content)
        return self.name


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
        """Fetch the image unless the cache has it; see `LocalImage.place`.

        Raises:
            DataError: the network fails again and again.
        """
        name = cached_name(self.url)
        if not (self.cache / name).is_file():
            content = download(self.url)
            check_image(content, self.url)
            with replacing(self.cache / name) as temporary:
                temporary.write_bytes(content)
        return name


Picture = LocalImage | StoredImage | LinkedImage


def cached_name(url: str) -> str:
    """Return the file of an address: its last two parts, with a digest so that no two addresses share one."""
    path = PurePosixPath(url.partition("://")[2])
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]
    return f"{path.parent.name}/{path.stem}-{digest}{path.suffix}"


def check_image(content: bytes, name: str) -> None:
    """Refuse bytes that are no whole image.

    Raises:
        MissingImageError: naming the image.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise MissingImageError(f"{name} is not a whole image ({error})") from error


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
            with attempt:
                answer = _sessions.session.get(url, timeout=TIMEOUT_S)
                if answer.status_code in GONE:
                    raise MissingImageError(f"{url} (status {answer.status_code})")
                answer.raise_for_status()
                return answer.content
    except RetryError as error:
        cause = error.last_attempt.exception()
        raise DataError(
            f"{url}: cannot be fetched after {ATTEMPTS} attempts ({cause}); check the network and run again "
            "(what was fetched is kept), or name a local folder of COCO images with `images`"
        ) from cause
    raise AssertionError("unreachable")
