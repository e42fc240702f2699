"""Contracts of the tables of samples: those behind the explorer, and the patches of galleries."""

from vlmdiff.tables.columns import contract
from vlmdiff.tables.features import FEATURE

EXAMPLES = contract(
    "Samples that are shown of a feature, chosen by its activations in the tuned model's dictionary.",
    *FEATURE,
    (
        "kind",
        "str",
        "top: strongest on text; middle: about half as strong; silent: of its groups, active nowhere",
    ),
    ("rank", "int", "0 for the first of its kind"),
    ("sample_id", "str", "sample"),
)

EXAMPLE_ACTIVATIONS = contract(
    "Activations of a feature on all tokens of these samples; tokens on which it is silent have no row.",
    *FEATURE,
    ("sample_id", "str", "sample"),
    ("dictionary", "str", "base, adapted or null: whose feature of this index, reading the tuned model"),
    ("position", "int", "position of the token in the model's sequence"),
    ("activation", "float", "z at that token"),
)

EXAMPLE_TOKENS = contract(
    "Tokens of these samples: words as they read in a text, and patches of the image.",
    ("sample_id", "str", "sample"),
    ("position", "int", "position of the token in the model's sequence"),
    ("text", "str", "what the token writes; empty for a patch, ↵ for an image token without a place"),
    ("left", "float", "left edge of a patch, as a fraction of the picture's width; NaN for a word"),
    ("top", "float", "upper edge, as a fraction of the height"),
    ("right", "float", "right edge"),
    ("bottom", "float", "lower edge"),
)

EXAMPLE_BINS = contract(
    "Text tokens of the searched samples on which a feature fires, by its activation in equal bins.",
    *FEATURE,
    ("low", "float", "lower end of the bin"),
    ("high", "float", "upper end"),
    ("tokens", "int", "tokens"),
)

EXAMPLE_NEIGHBOURS = contract(
    "The features of the same dictionary whose decoder rows point most alike.",
    *FEATURE,
    ("rank", "int", "0 for the nearest"),
    ("neighbour", "int", "index in the dictionary"),
    ("cosine", "float", "cosine of the decoder rows"),
)

GALLERY_PATCHES = contract(
    "Activations of a gallery's features on the patches of its pictures.",
    ("concept", "str", "concept of the config"),
    ("seed", "int", "index of the seed"),
    *FEATURE,
    ("name", "str", "L{layer}F{feature}"),
    ("rank", "int", "0 for the strongest sample of the feature"),
    ("sample_id", "str", "sample"),
    ("left", "float", "left edge of the patch, as a fraction of the picture's width; below 0 in padding"),
    ("top", "float", "upper edge, as a fraction of the height"),
    ("right", "float", "right edge"),
    ("bottom", "float", "lower edge"),
    ("activation", "float", "z at that patch; 0 where the feature is silent"),
)
