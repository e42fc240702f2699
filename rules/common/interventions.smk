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


def asked_sets():
    """Return the test sets of ablations and heads, and how many samples of each are asked; none without both."""
    found = {}
    for section in filter(None, (CFG.ablation, CFG.heads)):
        for name in reported_data(section):
            found[name] = max(section.report_on.samples, found.get(name, 0))
    return found


def reported_data(section):
    """Return the names of a section's test data, target and control; none of a section that is left out."""
    return [] if section is None else [section.report_on.target, section.report_on.control]


def ablation_tables(wildcards):
    """Return the test effects of ablating a concept's features, one table a scope."""
    folder = f"{RESULTS}/interventions/seed_{wildcards.seed}/{wildcards.concept}"
    return [f"{folder}/ablation_{scope}.csv" for scope in CFG.ablation.scopes]


def all_ablation_tables():
    """Return the test effects of all ablated concepts and seeds; none without ablation."""
    if CFG.ablation is None:
        return []
    return [
        f"{RESULTS}/interventions/seed_{seed}/{concept}/ablation_{scope}.csv"
        for seed in SEEDS
        for concept in CFG.ablation.concepts
        for scope in CFG.ablation.scopes
    ]


def steered_files(part):
    """Return an input function: what is needed of the model that is steered."""

    def files(wildcards):
        name = CFG.steering.model
        return f"{model_path(name)}/config.json" if part == "model" else weight_files(name)

    return files


def steering_samples(use, role):
    """Return an input function: samples of the `target` or `control` of steering's validation or test data."""
    return lambda wildcards: samples_file(getattr(getattr(CFG.steering, use), role))


def steering_tables():
    """Return the table of steering, which is done for the first seed; none if the config has no steering."""
    if CFG.steering is None:
        return []
    return [f"{RESULTS}/interventions/seed_0/{CFG.steering.concept}/steering.csv"]


def headline_params():
    """Return the one result that is claimed and all that is ablated, as plain values; None without ablation."""
    if CFG.ablation is None:
        return None
    return {
        "concept": CFG.ablation.concepts[0],
        **CFG.ablation.headline.params(),
        "concepts": CFG.ablation.concepts,
        "scopes": CFG.ablation.scopes,
        "sizes": CFG.ablation.set_sizes,
        "seeds": CFG.seeds,
    }
