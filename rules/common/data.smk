"""Which data sets are prepared, and from what."""

from vlmdiff.config.local_files import split_files
from vlmdiff.config.parts import Parts
from vlmdiff.config.samples_file import find_samples


def prepared_datasets():
    """Return the names of the data sets that a rule prepares from their sources."""
    return [name for name, entry in CFG.datasets.items() if is_prepared(entry)]


def source_of_subset(wildcards):
    """Return how the data set that another one is part of is read and split; None for other kinds."""
    entry = CFG.datasets[wildcards.dataset]
    if entry.kind != "subset":
        return None
    source = CFG.dataset(entry.of)
    prepared = entry.of in CFG.datasets and is_prepared(source)
    parts = getattr(source, "parts", Parts()).params()
    # Where images are linked to, paths begin with the link, which is not part of a picture's name.
    return {"samples": source.samples, "parts": parts, "root": "images/" if prepared else ""}


def source_files(wildcards):
    """Return the local files that a data set's samples are read from, its images aside; none for the hub's."""
    entry = CFG.datasets[wildcards.dataset]
    if entry.kind == "folder":
        return str(find_samples(entry.path))
    if entry.kind == "subset":
        return [samples_file(entry.of)]
    if is_hub(entry.source):
        return []
    if Path(entry.source).is_file():
        return entry.source
    return with_targets(split_files(entry.source, entry.split))
