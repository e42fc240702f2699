"""Contracts of the scoreboard (docs/understand/scoreboard.md)."""

from vlmdiff.tables.columns import contract
from vlmdiff.tables.features import FEATURE

METHOD_RANKING = contract(
    "What a method finds by a concept's contrast, best first; what a rule's filters refuse is not listed.",
    ("rule", "str", "selection rule: contrast, contrast_visual, …_lexical, …_adapted, full"),
    *FEATURE,
    ("score", "float", "minus the log p of counts; the effect size of the other contrasts"),
    ("selected", "bool", "the contrast selects it, and no filter of the rule refuses it"),
    ("certain", "bool", "the contrast would, if it asked for no effect size; of counts as `selected`"),
)

QUALITY = (
    ("ranked", "int", "features (or directions) with a score; all others come last"),
    ("selected", "int", "features that are selected; -1 if that is not told"),
    ("precision", "float", "selected features that are spatial by their best label, as a fraction"),
    ("recall", "float", "spatial features that are selected"),
    ("f1", "float", "harmonic mean of both"),
    ("average_precision", "float", "area under precision and recall along the ranking"),
    ("precision_any", "float", "precision, if any spatial label beyond chance counts"),
    ("recall_any", "float", "recall of the same"),
    ("f1_any", "float", "harmonic mean of both"),
    ("average_precision_any", "float", "average precision of the same"),
)

LIMITED = (
    ("rule", "str", "selection rule"),
    ("seed", "int", "index of the seed"),
    ("min_effect_size", "float", "smallest effect size of what is selected"),
    *(column for column in QUALITY if column[0] != "ranked" and not column[0].startswith("average")),
)

METHOD_LIMITS = contract(
    "What a rule would select if its contrast asked for another effect size, held against the truth.",
    *LIMITED,
)

METHOD_SCORES = contract(
    "A ranking held against what features really tell, one row a rule.",
    ("rule", "str", "selection rule; own for a submission"),
    ("seed", "int", "index of the seed"),
    *QUALITY,
)

LIMITS = contract(
    "What every method would select by another effect size.",
    ("method", "str", "method of the config"),
    ("concept", "str", "concept of the config"),
    *LIMITED,
)

SCOREBOARD = contract(
    "Every method, contrast, rule and seed.",
    ("method", "str", "method or submission of the config"),
    ("concept", "str", "concept of the config; own for a submission"),
    ("contrast", "str", "its contrast; own for a submission"),
    ("rule", "str", "selection rule; own for a submission"),
    ("seed", "int", "index of the seed"),
    *QUALITY,
    ("control_finds", "float", "most features that it selects in a control model; NaN without a control"),
    ("ablated", "int", "features ablated together, the strongest first; 0 if none were"),
    ("target_margin", "float", "change of the logit margin on the concept's test data"),
    ("control_margin", "float", "change of the logit margin on general test data"),
    ("random_margin", "float", "mean change on the concept's test data of matched random sets"),
    ("recurrence", "float", "final features whose match in another seed is final, as a fraction"),
    ("recurrence_control", "float", "the same of live features that are not final"),
    ("seconds", "float", "CPU time of its jobs, activations and the base dictionary aside"),
)

CONTROL_FINDS = contract(
    "What a method selects in models that cannot know the concept.",
    ("method", "str", "method or submission of the config"),
    ("concept", "str", "concept of the config; own for a submission"),
    ("rule", "str", "selection rule; own for a submission"),
    ("control", "str", "comparison of the control model"),
    ("seed", "int", "index of the seed"),
    ("selected", "int", "features that are selected"),
)
