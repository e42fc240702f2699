"""What every job needs before it starts: logging, threads, seeds, safe writing, code digests."""

from vlmdiff.runtime.files import replacing, replacing_folder
from vlmdiff.runtime.job import job
from vlmdiff.runtime.progress import progress
from vlmdiff.runtime.seeds import derive_seed

__all__ = ["derive_seed", "job", "progress", "replacing", "replacing_folder"]
