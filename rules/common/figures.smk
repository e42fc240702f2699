"""Which files figures and summary read, and which figures an experiment has."""

from vlmdiff.config.cases import (
    asked_data,
    concept_seeds as seeds_of,
    headline_facts,
    reported_rules,
    scored_seeds as scored,
    selection_facts,
)
from vlmdiff.config.omitted import omitted
from vlmdiff.config.checkpoints import snapshots

FIGURES = f"{RESULTS}/figures"
CONCEPT_FIGURES = f"{FIGURES}/seed_{{seed}}/{{concept}}"
# Rows and columns of the figure of top-activating samples; five of each fill a page.
GALLERY_FEATURES = 5
GALLERY_SAMPLES = 5


def accuracy_tables():
    """Return the accuracies of the world's checkpoints; none where no model of the config is one of them."""
    return [world_accuracy()] if checkpoints(CFG) else []


def asked_tables():
    """Return the accuracies of the model under study on the test sets; none without any."""
    return [f"{RESULTS}/accuracy/{CFG.diff.model}.csv"] if asked_data(CFG) else []


def dictionary_metrics():
    """Return the quality tables of all dictionaries and seeds; an imported dictionary has one."""
    return [
        f"{RESULTS}/dictionaries/{name}/seed_{seed}/metrics.csv"
        for name in sorted({name for entry in CFG.evaluation for name in entry.dictionaries})
        for seed in scored(CFG, name)
    ]


def concept_top_samples(wildcards):
    """Return the strongest samples on the data that show the concept, one file a layer."""
    dataset = CFG.concepts[wildcards.concept].target.dataset
    folder = (
        f"{RESULTS}/features/statistics/{CFG.diff.adapted}/seed_{wildcards.seed}/{CFG.diff.model}/{dataset}"
    )
    return [f"{folder}/layer_{layer}/top_samples.parquet" for layer in LAYERS]


def concept_ranking(wildcards):
    """Return the ranking of a concept's features; none without ablation."""
    if CFG.ablation is None:
        return []
    return [f"{RESULTS}/interventions/seed_{wildcards.seed}/{wildcards.concept}/ranking.csv"]


def general_figures():
    """Return the names of the figures that an experiment has once."""
    scores = ["fvu_by_layer", "training_dynamics"] if CFG.evaluation else []
    answers = ["model_accuracy"] if accuracy_tables() or asked_tables() else []
    return [*scores, "cosine_distributions", "adapted_by_layer", "threshold_robustness", *answers]


def concept_figures():
    """Return by name of a figure the concepts that have one, of the first seed."""
    found = {"energy_vs_cosine": CFG.concepts, "contrast_volcano": CFG.concepts, "funnel": CFG.concepts}
    found["top_samples"] = CFG.studied_concepts()
    if CFG.ablation is not None:
        found |= dict.fromkeys(("ablation_effects", "ablation_by_group"), CFG.ablation.concepts)
    if CFG.heads is not None:
        names = ("head_attribution", "attribution_vs_exact", "head_ablation", "attention_map")
        found |= dict.fromkeys(names, [CFG.heads.concept])
    if CFG.steering is not None:
        found["steering"] = [CFG.steering.concept]
    return found


def all_figures():
    """Return the SVG of every figure of the experiment; those of one seed show the first."""
    files = [f"{FIGURES}/{name}.svg" for name in general_figures()]
    if CFG.ablation is not None:
        files += [f"{FIGURES}/{concept}/selection_rules.svg" for concept in CFG.ablation.concepts]
    if CFG.seeds > 1:
        files += [f"{FIGURES}/{concept}/recurrence.svg" for concept in CFG.studied_concepts()]
    for name, concepts in concept_figures().items():
        files += expand(f"{CONCEPT_FIGURES}/{name}.svg", seed=0, concept=list(concepts))
    return files


def experiment_outputs():
    """Return everything that the default target makes, the costs of making it aside."""
    return [
        f"{RESULTS}/config.yaml",
        f"{RESULTS}/summary.md",
        *all_figures(),
        *default_selections(),
        *default_funnels(),
        *recurrence_tables(),
        *label_tables(),
        *truth_outputs(),
        *steering_tables(),
        *(
            [f"{FIGURES}/{concept}/ground_truth.svg" for concept in CFG.studied_concepts()]
            if TRUTH_DATA
            else []
        ),
    ]
