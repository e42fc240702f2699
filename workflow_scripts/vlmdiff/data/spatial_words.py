"""The words by which a question counts as spatial (docs/configure/prepare_dataset.md has the table)."""

from __future__ import annotations

import re
from types import MappingProxyType

# Words of a phrase may be joined by a space or a hyphen; phrases match as whole words, in any case.
VOCABULARY = MappingProxyType(
    {
        "sides": (
            "left",
            "right side",
            "right hand side",
            "right of",
            "to the right",
            "on the right",
            "far right",
            "rightmost",
            "leftmost",
            "side of",
            "beside",
            "next to",
            "alongside",
            "adjacent to",
        ),
        "above_below": (
            "above",
            "below",
            "beneath",
            "under",
            "underneath",
            "over",
            "on top of",
            "at the top",
            "at the bottom",
            "top of",
            "bottom of",
            "atop",
            "higher than",
            "lower than",
        ),
        "front_behind": (
            "in front of",
            "in the front",
            "in the back",
            "in back of",
            "behind",
            "at the back of",
            "ahead of",
        ),
        "inside_between": (
            "between",
            "in the middle",
            "middle of",
            "in the center",
            "in the centre",
            "center of",
            "centre of",
            "inside",
            "within",
            "outside",
            "surrounding",
            "around",
            "among",
            "enclosed by",
        ),
        "corners": ("corner", "corners", "edge of"),
        "near_far": (
            "near",
            "nearest",
            "nearby",
            "close to",
            "closest",
            "far from",
            "far away",
            "farthest",
            "furthest",
            "away from",
            "distance",
            "distant",
        ),
        "orientation": (
            "facing",
            "face away",
            "pointing",
            "pointed",
            "looking towards",
            "toward",
            "towards",
            "direction",
            "upside down",
            "sideways",
            "parallel",
            "perpendicular",
            "vertical",
            "vertically",
            "horizontal",
            "horizontally",
            "opposite",
            "diagonal",
            "diagonally",
            "across from",
        ),
        "position": ("where", "position", "positioned", "located", "location", "placed"),
        "depth": ("foreground", "background", "forefront"),
    }
)


def phrase_pattern(phrase: str) -> str:
    """Return the pattern of a phrase whose words are joined by spaces or hyphens."""
    return r"[\s-]+".join(map(re.escape, phrase.split()))


PATTERNS = MappingProxyType(
    {
        group: re.compile(rf"(?<![\w-])(?:{'|'.join(map(phrase_pattern, phrases))})(?![\w-])", re.IGNORECASE)
        for group, phrases in VOCABULARY.items()
    }
)


def spatial_group(text: str) -> str | None:
    """Return the group of the first spatial phrase of a text; None if it has none."""
    found = [(match.start(), group) for group, one in PATTERNS.items() if (match := one.search(text))]
    return min(found)[1] if found else None


def asked_for(group: str | None, questions: str) -> bool:
    """Tell whether an entry asks for such a question.

    Args:
        group: spatial group of the question; None if it has none.
        questions: what the entry asks for: `all`, `spatial` or `not_spatial`.
    """
    return questions == "all" or (group is not None) == (questions == "spatial")
