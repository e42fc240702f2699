"""Contracts of the tables that only the built-in world can have: it knows its scene graphs."""

from vlmdiff.tables.columns import contract
from vlmdiff.tables.features import FEATURE

GROUND_TRUTH = contract(
    "What a feature really tells, on held-out scenes (docs/understand/score_ground_truth.md).",
    ("seed", "int", "index of the seed"),
    *FEATURE,
    ("live", "bool", "fires on a text token of some sample"),
    ("label", "str", "label that its activation tells best"),
    ("category", "str", "place, relation, truth (spatial); lexical, attribute, kind, answer"),
    ("auroc", "float", "area under the ROC curve for it; below 0.5: active where the label is false"),
    ("auroc_low", "float", "lower end of its DeLong 95 % interval"),
    ("auroc_high", "float", "upper end of it"),
    ("chance", "float", "distance from 0.5 of the best match under shuffled samples, 95 % quantile"),
    ("matches", "bool", "live, and the best match is farther from 0.5 than chance"),
    ("spatial", "bool", "matches, and the best label is spatial"),
    ("spatial_label", "str", "spatial label that it tells best; empty if no spatial label is common enough"),
    ("spatial_auroc", "float", "area for it; 0.5 if there is none"),
    ("spatial_match", "bool", "live, and that area is farther from 0.5 than chance"),
    ("best_place", "float", "0.5 + largest distance from 0.5 over labels of places"),
    ("best_relation", "float", "the same over relations"),
    ("best_truth", "float", "the same over truths of statements"),
    ("best_lexical", "float", "the same over words of the prompt"),
    ("best_attribute", "float", "the same over attributes that the image shows"),
    ("best_kind", "float", "the same over kinds of prompts"),
    ("best_answer", "float", "the same over answers to general questions"),
)

LABEL_SCORES = contract(
    "Area under the ROC curve of a live feature for a label, on held-out scenes.",
    ("seed", "int", "index of the seed"),
    *FEATURE,
    ("label", "str", "label"),
    ("category", "str", "its category"),
    ("auroc", "float", "area under the ROC curve"),
)

RULE_QUALITY = contract(
    "Precision and recall of a selection rule against the spatial features of the ground truth.",
    ("concept", "str", "concept of the config"),
    ("seed", "int", "index of the seed"),
    (
        "rule",
        "str",
        "live, visual, adapted, contrast, contrast_visual, …_lexical, …_adapted, full, full_…",
    ),
    ("layer", "int", "decoder block, -1 for all"),
    ("definition", "str", "spatial by best match, or any match: a spatial label beyond chance"),
    ("selected", "int", "features that the rule gives"),
    ("spatial", "int", "spatial features of the ground truth"),
    ("hits", "int", "features that are both"),
    ("precision", "float", "hits / selected"),
    ("precision_low", "float", "lower end of its Wilson 95 % interval"),
    ("precision_high", "float", "upper end of it"),
    ("recall", "float", "hits / spatial"),
    ("recall_low", "float", "lower end of its Wilson 95 % interval"),
    ("recall_high", "float", "upper end of it"),
    ("f1", "float", "harmonic mean of both"),
)
