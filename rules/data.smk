"""Data sets: those prepared from public sources, from folders, and as parts of others."""

from vlmdiff.config.datasets import is_prepared
from vlmdiff.config.local_files import split_files, with_targets
from vlmdiff.config.samples_file import find_samples
from vlmdiff.config.sources import is_hub
from vlmdiff.config.subsets import split_source


def source_files(wildcards):
    """Return the local files that a data set's samples are read from, its images aside; none for the hub's."""
    entry = CFG.datasets[wildcards.dataset]
    if entry.kind == "folder":
        return str(find_samples(entry.path))
    if entry.kind == "subset":
        return [FILES.samples(entry.of)]
    if is_hub(entry.source):
        return []
    if Path(entry.source).is_file():
        return entry.source
    return with_targets(split_files(entry.source, entry.split))


rule prepare_dataset:
    """Prepare a data set from its source, maybe over the network, which cluster nodes may lack."""
    input:
        sources=source_files,
    output:
        # Images lie beside it: written, or as a link to where they are kept.
        samples=results("data/{dataset}/samples.jsonl"),
        counts=shown("data/{dataset}/counts.csv", "Models and data", "Counts"),
    wildcard_constraints:
        dataset=one_of(name for name, entry in CFG.datasets.items() if is_prepared(entry)),
    localrule: True
    params:
        entry=lambda wildcards: CFG.datasets[wildcards.dataset].params("text_tokens", "parts"),
        source=lambda wildcards: split_source(wildcards.dataset, CFG.all_datasets()),
    script:
        "../workflow_scripts/prepare_dataset.py"
