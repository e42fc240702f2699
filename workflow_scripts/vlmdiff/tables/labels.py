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
    "Evidence for the label of a feature: a word, a trait or a token of the logit lens, best first.",
    ("concept", "str", "concept of the config"),
    ("seed", "int", "index of the seed"),
    *FEATURE,
    ("kind", "str", "word, trait, promoted or suppressed"),
    ("rank", "int", "0 for the best of its kind"),
    ("what", "str", "token or trait"),
    ("effect", "float", "word: share of firings; trait: difference of shares; else logit"),
    ("log_odds", "float", "log odds ratio (Haldane's correction); NaN for the logit lens"),
    ("log_p_adjusted", "float", "log of the Benjamini-Hochberg adjusted Fisher p; NaN for the logit lens"),
)

DESCRIPTIONS = contract(
    "What a language model behind an OpenAI-compatible endpoint calls a feature, from the evidence as text.",
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
)
