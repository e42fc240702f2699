"""What an image is, whatever it is called."""

from __future__ import annotations

from vlmdiff.data.samples import Sample
from vlmdiff.runtime.files import file_sha256


def image_identity(sample: Sample) -> str | None:
    """Return what two samples share if and only if they show one image; None for a sample without one."""
    return None if sample.image_file is None else file_sha256(sample.image_file)
