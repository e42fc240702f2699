"""Which files figures and summary read, and which figures an experiment has."""

FIGURES = f"{RESULTS}/figures"
CONCEPT_FIGURES = f"{FIGURES}/seed_{{seed}}/{{concept}}"
# Rows and columns of the figure of top-activating samples; five of each fill a page.
GALLERY_FEATURES = 5
GALLERY_SAMPLES = 5


def accuracy_tables():
    """Return the accuracies of the world's checkpoints; none where no model of the config is one of them."""
    return [world_accuracy()] if checkpoints(CFG) else []


def asked_table():
    """Return the accuracies of the model under study on the test sets."""
    return f"{RESULTS}/accuracy/{CFG.diff.model}.csv"


def dictionary_metrics():
    """Return the quality tables of all dictionaries and seeds; an imported dictionary has one."""
    return [
        f"{RESULTS}/dictionaries/{name}/seed_{seed}/metrics.csv"
        for name in sorted({name for entry in CFG.evaluation for name in entry.dictionaries})
        for seed in scored_seeds(name)
    ]


def scored_seeds(dictionary):
    """Return the seeds for which a dictionary is scored."""
    if is_published(dictionary):
        return [0]
    entries = [entry for entry in CFG.evaluation if dictionary in entry.dictionaries]
    return range(max(min(entry.seeds or CFG.seeds, CFG.seeds) for entry in entries))


def concept_top_samples(wildcards):
    """Return the strongest samples on the data that show the concept, one file a layer."""
    dataset = CFG.concepts[wildcards.concept].target.dataset
    folder = (
        f"{RESULTS}/features/statistics/{CFG.diff.adapted}/seed_{wildcards.seed}/{CFG.diff.model}/{dataset}"
    )
    return [f"{folder}/layer_{layer}/top_samples.parquet" for layer in LAYERS]


def concept_seeds(concept):
    """Return the seeds for which a concept's features are selected: all if they are ablated, else the first."""
    return SEEDS if concept in CFG.ablation.concepts else [0]


def all_figures():
    """Return the SVG of every figure of the experiment; those of one seed show the first."""
    general = [
        "fvu_by_layer",
        "training_dynamics",
        "cosine_distributions",
        "adapted_by_layer",
        "threshold_robustness",
        "model_accuracy",
    ]
    by_concept = {
        "energy_vs_cosine": CFG.concepts,
        "contrast_volcano": CFG.concepts,
        "funnel": CFG.concepts,
        "top_samples": CFG.ablation.concepts,
        "ablation_effects": CFG.ablation.concepts,
        "ablation_by_group": CFG.ablation.concepts,
        "head_attribution": [CFG.heads.concept],
        "attribution_vs_exact": [CFG.heads.concept],
        "head_ablation": [CFG.heads.concept],
        "attention_map": [CFG.heads.concept],
    }
    files = [f"{FIGURES}/{name}.svg" for name in general]
    sure = ["selection_rules", *(["recurrence"] if CFG.seeds > 1 else [])]
    files += [f"{FIGURES}/{concept}/{name}.svg" for concept in CFG.ablation.concepts for name in sure]
    for name, concepts in by_concept.items():
        files += expand(f"{CONCEPT_FIGURES}/{name}.svg", seed=0, concept=list(concepts))
    if CFG.steering is not None:
        files.append(f"{FIGURES}/seed_0/{CFG.steering.concept}/steering.svg")
    return files


def experiment_outputs():
    """Return everything that the default target makes, the costs of making it aside."""
    return [
        f"{RESULTS}/config.yaml",
        f"{RESULTS}/summary.md",
        *all_figures(),
        *default_selections(),
        *recurrence_tables(),
        *label_tables(),
        *truth_outputs(),
        *steering_tables(),
        *truth_figures(),
    ]
