"""What the causal checks need of the configuration."""


def causal_model():
    """Return what is needed to load the VLM under study, its path aside."""
    return {"name": CFG.diff.model, "values": subject_params(CFG.diff.model)}


def compared_causal_model(wildcards):
    """Return what is needed to load the model of a comparison, its path aside."""
    name = compared_model(wildcards)
    return {"name": name, "values": subject_params(name)}


def question_sets(section):
    """Return how a section's two sets of questions are used, their paths aside."""
    return {
        "names": [section.target, section.control],
        "samples": section.samples,
        "batch_tokens": CFG.extraction.batch_tokens,
    }


def ablation_tables(seed="{seed}", concept="{concept}"):
    """Return the test effects of ablating a concept's features, one table a scope."""
    folder = f"{RESULTS}/interventions/seed_{seed}/{concept}"
    return [f"{folder}/ablation_{scope}.csv" for scope in CFG.ablation.scopes]
