"""Dictionaries that are trained, kept for a job that is to make them again together with others.

Snakemake deletes all outputs of a job before it runs, and when it fails. So that a job of several layers
trains only those that are missing or changed, each finished dictionary has a second name (a hard link, which
takes no room) outside of the outputs, and a note of what made it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

from vlmdiff.runtime.disk_errors import not_read
from vlmdiff.runtime.files import replacing, replacing_folder
from vlmdiff.runtime.origin import software
from vlmdiff.runtime.records import bytes_checksum, files_of

log = logging.getLogger(__name__)
NOTE = "made_from.json"
SNAPSHOTS = "snapshots"


class Finished:
    """A finished dictionary's second name.

    Args:
        folder: where it lies.
        settings: digest of everything that the training's result depends on, versions of libraries aside.
    """

    def __init__(self, folder: Path, settings: str) -> None:
        self.folder = folder
        self.made_from = {"settings": settings, "software": software()}

    def keep(self, made: Path) -> None:
        """Keep what a training has written into a folder; not where the file system has no hard links."""
        files = files_of(made)
        note = {**self.made_from, "files": {name: bytes_checksum(one) for name, one in files.items()}}
        try:
            with replacing_folder(self.folder) as place:
                for name, file in files.items():
                    (place / name).parent.mkdir(parents=True, exist_ok=True)
                    os.link(file, place / name)
                (place / NOTE).write_text(json.dumps(note, indent=1) + "\n")
        except OSError as error:
            log.info("%s is not kept: this file system has no hard links (%s)", made, error)

    def usable(self) -> bool:
        """Tell whether it was made from these settings and is whole.

        Raises:
            StorageError: the system does not let us read it.
        """
        file = self.folder / NOTE
        if not file.is_file():
            return False
        try:
            note = json.loads(file.read_text())
            expected = note.pop("files")
            if note != self.made_from:
                return False
            found = {name: bytes_checksum(self.folder / name) for name in expected}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if problem := not_read(file, error):
                raise problem from error
            log.warning("%s cannot be used (%s); training starts anew", self.folder, error)
            return False
        return found == expected

    def put(self, target: Path) -> None:
        """Put it where the training would write, as new as if it had."""
        shutil.rmtree(target / SNAPSHOTS, ignore_errors=True)
        (target / SNAPSHOTS).mkdir(parents=True)
        for name, file in files_of(self.folder).items():
            if name != NOTE:
                with replacing(target / name) as temporary:
                    os.link(file, temporary)
                os.utime(target / name)
        log.info("%s was trained before from the same inputs and settings", target)
