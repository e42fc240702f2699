"""Progress of long loops, readable in a log file as well as on a terminal."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
log = logging.getLogger(__name__)


def progress(
    items: Iterable[Item], what: str, total: int | None = None, every_s: float = 10.0
) -> Iterator[Item]:
    """Yield `items`, logging how many are done, the rate and the time left every `every_s` seconds.

    Args:
        items: what to iterate over.
        what: the plural noun for the log line, e.g. "batches".
        total: number of items, taken from `len(items)` where that exists.
        every_s: seconds between two lines.
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    started = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= every_s:
            last, rate = now, done / (now - started)
            left = f", about {(total - done) / rate:.0f} s left" if total else ""
            log.info("%d%s %s done, %.1f/s%s", done, f"/{total}" if total else "", what, rate, left)
