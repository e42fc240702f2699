"""Which data sets are prepared, and from what."""

from vlmdiff.config.local_files import split_files


def prepared_datasets():
    """Return the names of the data sets that a rule prepares from their sources."""
    return [name for name, entry in CFG.datasets.items() if is_prepared(entry)]


def source_files(wildcards):
    """Return the local files that a data set's samples are read from, its images aside; none for the hub's."""
    entry = CFG.datasets[wildcards.dataset]
    if entry.kind == "folder":
        return f"{entry.path}/samples.jsonl"
    if is_hub(entry.source):
        return []
    if Path(entry.source).is_file():
        return entry.source
    return with_targets(split_files(entry.source, entry.split))
