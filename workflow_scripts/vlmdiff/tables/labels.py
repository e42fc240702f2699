"""Contracts of the tables that say in words what features respond to."""

from vlmdiff.tables.columns import contract
from vlmdiff.tables.features import FEATURE

LABELS = contract(
    "A short label of each final feature, put together from evidence (docs/understand/label_features.md).",
    ("concept", "str", "concept of the config"),
    ("seed", "int", "index of the seed"),
    *FEATURE,
    ("name", "str", "L{layer}F{feature}"),
    ("label", "str", "word, trait and promoted token; 'no clear label' without a clear word or trait"),
    ("confidence", "str", "strong, moderate or none, by the larger effect of word and trait"),
    ("word", "str", "token on which it fires most selectively; empty if none is clear"),
    ("word_share", "float", "fraction of its firings that are on this token"),
    ("word_log_odds", "float", "log odds ratio of firing on it against other tokens (Haldane's correction)"),
    ("trait", "str", "trait of its strongest samples; empty if none is clear"),
    ("trait_difference", "float", "share of strong samples with it - share of the others"),
    ("trait_log_odds", "float", "log odds ratio (Haldane's correction)"),
    ("promotes", "str", "tokens that its decoder row promotes most, joined by spaces"),
    ("suppresses", "str", "tokens that it suppresses most, joined by spaces"),
)

LABEL_EVIDENCE = contract(
    "Evidence for the label of a feature: words, traits, tokens of the lens, neighbours; best first.",
    ("concept", "str", "concept of the config"),
    ("seed", "int", "index of the seed"),
    *FEATURE,
    ("kind", "str", "word, trait, promoted, suppressed, or neighbour: a final feature that points alike"),
    ("rank", "int", "0 for the best of its kind"),
    ("what", "str", "token, trait, or name of the neighbour"),
    ("effect", "float", "word: share of firings; trait: difference of shares; neighbour: cosine; else logit"),
    ("log_odds", "float", "log odds ratio (Haldane's correction); NaN for lens and neighbours"),
    (
        "log_p_adjusted",
        "float",
        "log of the Benjamini-Hochberg adjusted Fisher p; NaN for lens and neighbours",
    ),
)

LABEL_SAMPLES = contract(
    "Samples of a concept's target data by which descriptions of its features are made and scored.",
    ("concept", "str", "concept of the config"),
    ("seed", "int", "index of the seed"),
    *FEATURE,
    (
        "use",
        "str",
        "shown: the strongest; fires and silent: drawn at random from all others, to score a description",
    ),
    ("rank", "int", "0 for the first of its use"),
    ("sample_id", "str", "sample"),
    ("activation", "float", "largest activation on a text token"),
)

DETECTIONS = contract(
    "What a language model says of single samples, given a feature's description: does the feature fire?",
    ("concept", "str", "concept of the config"),
    ("seed", "int", "index of the seed"),
    *FEATURE,
    ("sample_id", "str", "sample"),
    ("fires", "bool", "whether it does"),
    ("answer", "str", "yes, no, or what was said in their place"),
)

DESCRIPTIONS = contract(
    "What a language model behind an OpenAI-compatible endpoint calls a feature, and how well that fits.",
    ("concept", "str", "concept of the config"),
    ("seed", "int", "index of the seed"),
    *FEATURE,
    ("name", "str", "L{layer}F{feature}"),
    ("description", "str", "the answer"),
    ("finish_reason", "str", "why the answer ended, as the endpoint says"),
    ("model", "str", "model that the endpoint says it used"),
    ("temperature", "float", "of the request"),
    ("prompt_sha256", "str", "digest of the whole prompt"),
    ("prompt_tokens", "int", "as the endpoint counts; -1 if it does not"),
    ("completion_tokens", "int", "likewise"),
    ("images", "int", "pictures that the prompt showed"),
    ("hits", "int", "samples on which the feature fires, and that the description was said to fit"),
    ("fires", "int", "samples on which it fires that were asked about"),
    (
        "false_alarms",
        "int",
        "silent samples of which no answer said that it does not fit them",
    ),
    ("silent", "int", "samples on which it is silent that were asked about"),
    ("balanced_accuracy", "float", "mean of hits / fires and 1 - false_alarms / silent; chance: 0.5"),
    ("detection_p", "float", "Fisher's exact one-sided p that it fits both kinds alike; NaN: not tried"),
)
