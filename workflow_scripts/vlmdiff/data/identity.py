"""Which picture a sample shows: its public id where the source tells it, and the bytes of its file."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from vlmdiff.runtime.files import file_sha256

if TYPE_CHECKING:
    from vlmdiff.data.samples import Sample

# COCO's file names, of 2014 (COCO_val2014_000000000139.jpg) and of 2017 (000000000139.jpg).
COCO_FILE = re.compile(r"(?:COCO_[a-z]+[0-9]{4}_)?([0-9]{12})\.jpg")
Digest = Callable[[Path], str]


def coco_id(number: int) -> str:
    """Return the public id of a COCO picture; its number is the same in all releases."""
    return f"coco:{number}"


def coco_id_of_file(name: str) -> str | None:
    """Return the public id of a COCO picture by its file's name; None if the name is no such one."""
    found = COCO_FILE.fullmatch(Path(name).name)
    return None if found is None else coco_id(int(found[1]))


def public_id(sample: Sample) -> str | None:
    """Return the public id of a sample's picture (`image_id`); None if its line has none."""
    return getattr(sample, "image_id", None)


def shown_by(sample: Sample) -> str:
    """Return by what samples are told apart that show the same: public id, file of the picture, or text."""
    return public_id(sample) or sample.image or sample.prompt


def image_identity(sample: Sample) -> str | None:
    """Return what a sample's picture is known by; None if the sample has no picture.

    The public id (`coco:139`) where the line has one, because copies of a picture may differ in their bytes
    (VQAv2 on the hub encodes COCO's anew); else `sha256:` and the digest of the file.

    Args:
        sample: a sample whose file is there.
    """
    if sample.image_file is None:
        return None
    return public_id(sample) or f"sha256:{file_sha256(sample.image_file)}"


def text_shown(sample: Sample) -> tuple[str, bool]:
    """Return what a model is told of a sample: the prompt, and whether it is put into the chat template."""
    return sample.prompt, sample.chat


class Pictures:
    """Samples by the picture that they show: two pictures are one if their public ids or their bytes agree.

    Files are read only where their numbers of bytes agree.
    """

    def __init__(self, samples: Iterable[Sample], digest: Digest | None = None) -> None:
        """Look at ids and sizes of some samples.

        Args:
            samples: the samples; those without a picture count as showing the same nothing.
            digest: digests files; several collections may share one that remembers.
        """
        self.digest = cache(file_sha256) if digest is None else digest
        self.without: list[Sample] = []
        self.by_id: dict[str, list[Sample]] = defaultdict(list)
        self.by_size: dict[int, list[Sample]] = defaultdict(list)
        self.by_bytes: dict[int, dict[str, list[Sample]]] = {}
        for sample in samples:
            if sample.image_file is None:
                self.without.append(sample)
                continue
            if known := public_id(sample):
                self.by_id[known].append(sample)
            self.by_size[sample.image_file.stat().st_size].append(sample)

    def like(self, sample: Sample) -> list[Sample]:
        """Return the samples that show what another one shows, each once."""
        file = sample.image_file
        if file is None:
            return list(self.without)
        found = [*self.by_id.get(public_id(sample) or "", ()), *self._same_bytes(file)]
        return list({id(one): one for one in found}.values())

    def _same_bytes(self, file: Path) -> list[Sample]:
        size = file.stat().st_size
        if size not in self.by_size:
            return []
        if size not in self.by_bytes:
            self.by_bytes[size] = defaultdict(list)
            for one in self.by_size[size]:
                self.by_bytes[size][self.digest(one.image_file)].append(one)
        return self.by_bytes[size].get(self.digest(file), [])


def shared_samples(ones: Sequence[Sample], others: Sequence[Sample]) -> Iterator[tuple[Sample, Sample]]:
    """Yield pairs of samples of the same text and the same picture, in the order of `others`."""
    by_text: dict[tuple[str, bool], list[Sample]] = defaultdict(list)
    for one in ones:
        by_text[text_shown(one)].append(one)
    digest = cache(file_sha256)
    pictures = {text: Pictures(alike, digest) for text, alike in by_text.items()}
    for other in others:
        if known := pictures.get(text_shown(other)):
            yield from ((one, other) for one in known.like(other))
