"""Which data sets are prepared, and from what."""

import glob


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
    source, split = Path(entry.source), glob.escape(entry.split)
    if source.is_file():
        return entry.source
    found = {
        file for kind in (f"{split}*", f"data/{split}*", f"*_{split}*.json") for file in source.glob(kind)
    }
    return with_targets(file for file in found if file.is_file())
