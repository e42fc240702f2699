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
    """Return the test sets of ablations and heads, and how many samples of each are asked."""
    found = {}
    for section in (CFG.ablation.report_on, CFG.heads.report_on):
        for name in (section.target, section.control):
            found[name] = max(section.samples, found.get(name, 0))
    return found


def ablation_tables(seed="{seed}", concept="{concept}"):
    """Return the test effects of ablating a concept's features, one table a scope."""
    folder = f"{RESULTS}/interventions/seed_{seed}/{concept}"
    return [f"{folder}/ablation_{scope}.csv" for scope in CFG.ablation.scopes]


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


def steering_data():
    """Return the names of steering's test data, target and control."""
    if CFG.steering is None:
        return ["", ""]
    return [CFG.steering.report_on.target, CFG.steering.report_on.control]
