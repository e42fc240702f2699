"""Which samples of a data set are held out: their images were not used (docs/understand/hold_out.md)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from vlmdiff.data.identity import Pictures, image_identity, text_shown
from vlmdiff.data.samples import Sample, load_samples
from vlmdiff.runtime.reading import DataError
from vlmdiff.tables.data import HELD_OUT, SHARED_IMAGE
from vlmdiff.tables.io import read_table, write_table

log = logging.getLogger(__name__)
SHOWN = 3


class HeldOutError(DataError):
    """What is reported on was used before."""


@dataclass(frozen=True)
class NamedSet:
    """A data set of the configuration.

    Attributes:
        name: its name.
        key: a key of the configuration that names it.
        file: its samples.jsonl.
        samples: how many of its samples the configuration uses, from the first on.
    """

    name: str
    key: str
    file: str | Path
    samples: int

    def load(self) -> list[Sample]:
        """Return its samples."""
        return load_samples(self.file, limit=self.samples)


@dataclass(frozen=True)
class Shared:
    """A sample that is reported on, and one that was used before and shows the same image.

    Attributes:
        one: the sample that is reported on.
        other: the sample that was used before.
        used: the data set of the latter.
    """

    one: Sample
    other: Sample
    used: NamedSet

    @property
    def whole(self) -> bool:
        """Whether the text is the same, too."""
        return text_shown(self.one) == text_shown(self.other)


def shared_with(samples: Sequence[Sample], before: Sequence[NamedSet]) -> list[Shared]:
    """Return what samples share with data that were used before: images, and whole samples without any.

    Args:
        samples: the samples that are reported on.
        before: the data sets that were used before; one is read at a time.
    """
    pictures = Pictures(one for one in samples if one.image is not None)
    texts = {text_shown(one): one for one in samples if one.image is None}
    found = []
    for used in before:
        for other in used.load():
            if other.image is not None:
                found += [Shared(one, other, used) for one in pictures.like(other)]
            elif (one := texts.get(text_shown(other))) is not None:
                found.append(Shared(one, other, used))
    return found


def check_none_whole(report: NamedSet, found: Sequence[Shared]) -> None:
    """Refuse samples that were used before as they are.

    Raises:
        HeldOutError: naming samples, data sets, keys and what to do.
    """
    whole = [pair for pair in found if pair.whole]
    if not whole:
        return
    count = len({pair.one.sample_id for pair in whole})
    pairs = [
        f"'{pair.one.sample_id}' is '{pair.other.sample_id}' of '{pair.used.name}' ({pair.used.key})"
        for pair in whole[:SHOWN]
    ]
    raise HeldOutError(
        f"{report.key}: {count} samples of data set '{report.name}' were used before, with the same text and "
        f"the same image, expected none: {', '.join(pairs)}{', …' if len(whole) > SHOWN else ''}; take other "
        "rows of the source (`split`, `offset`), or leave these samples out of the data set"
    )


def hold_out(report: NamedSet, before: Sequence[NamedSet], shared_images: str, output: str | Path) -> None:
    """Find the samples whose images were used before, and write the table HELD_OUT.

    Args:
        report: the data set that is reported on.
        before: all data sets that are used before.
        shared_images: `drop` leaves such samples out, `keep` reports on them as well.
        output: where to write the table.

    Raises:
        HeldOutError: a whole sample was used before, or no sample is left.
    """
    samples = report.load()
    found = shared_with(samples, before)
    check_none_whole(report, found)
    first: dict[str, Shared] = {}
    for pair in found:
        first.setdefault(pair.one.sample_id, pair)
    rows = []
    for sample in samples:
        pair = first.get(sample.sample_id)
        rows.append(
            {
                "dataset": report.name,
                "sample_id": sample.sample_id,
                "image": image_identity(sample) or "",
                "kept": pair is None or shared_images == "keep",
                "reason": "" if pair is None else SHARED_IMAGE,
                "shared_with": "" if pair is None else pair.used.name,
                "shared_sample": "" if pair is None else pair.other.sample_id,
            }
        )
    table = pd.DataFrame(rows, columns=HELD_OUT.names)
    tell(report, table)
    write_table(table, HELD_OUT, output)


def tell(report: NamedSet, table: pd.DataFrame) -> None:
    """Log how many samples are held out.

    Raises:
        HeldOutError: none is kept.
    """
    shared = table[table["reason"] == SHARED_IMAGE]
    counts = Counter(shared["shared_with"])
    where = ", ".join(f"{count} in '{name}'" for name, count in counts.items())
    if not table["kept"].any():
        raise HeldOutError(
            f"{report.key}: every one of the {len(table)} samples of data set '{report.name}' shows an image "
            f"that was used before ({where}), so that none is left to report on; name data of other images, "
            "use fewer before, or set `held_out.shared_images: keep`"
        )
    if len(shared):
        kept = "still reported on" if shared["kept"].all() else "left out"
        log.warning(
            "the images of %d of %d samples of '%s' were used before (%s): they are %s",
            len(shared), len(table), report.name, where, kept,
        )  # fmt: skip


def held_out_samples(table: str | Path, file: str | Path, count: int) -> list[Sample]:
    """Return the first samples of a data set that are held out.

    Args:
        table: HELD_OUT of the data set.
        file: its samples.jsonl.
        count: how many; all that there are if there are fewer.
    """
    rows = read_table(table, HELD_OUT)
    kept = set(rows.loc[rows["kept"], "sample_id"])
    samples = [one for one in load_samples(file) if one.sample_id in kept]
    if len(samples) < count:
        log.warning("%s: %d samples are held out, fewer than the %d asked for: all are used",
                    file, len(samples), count)  # fmt: skip
    return samples[:count]
