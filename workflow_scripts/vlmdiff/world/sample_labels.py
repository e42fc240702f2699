"""What is true of a sample of the built-in world: labels from its scene graph and its prompt.

Categories: `place` (row or column of a named object), `relation` (how the named objects really lie to
one another) and `truth` (whether a statement is true) are *spatial*: they cannot be told without looking
where things are. `lexical` labels are words of the prompt, `attribute` labels what the image shows
beside places, `kind` labels kinds of prompts, `answer` labels the right answers to general questions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vlmdiff.data.samples import Sample
from vlmdiff.world.datasets import named_objects
from vlmdiff.world.language import COLUMNS, RELATIONS, ROWS
from vlmdiff.world.real.english import AFFIRMED
from vlmdiff.world.scenes import COLOURS, SHAPES

SPATIAL = ("place", "relation", "truth")
OTHER = ("lexical", "attribute", "kind", "answer")
CATEGORIES = (*SPATIAL, *OTHER)
# An area from fewer samples of either value says little: its standard error is above 0.06.
FEWEST = 20


@dataclass(frozen=True)
class Label:
    """One statement about samples.

    Attributes:
        name: what it says.
        category: one of `CATEGORIES`.
        among: (samples,) bool, the samples about which it says something.
        value: (samples,) bool, of which it is true; meaningless elsewhere.
    """

    name: str
    category: str
    among: np.ndarray
    value: np.ndarray


def is_statement(sample: Sample) -> bool:
    """Tell statements about two named objects from other prompts."""
    return sample.group in RELATIONS


def named(sample: Sample) -> list[dict]:
    """Return the objects of the scene that a statement names first and second."""
    return named_objects(sample.prompt, sample.scene["objects"])


def words_of(prompt: str) -> set[str]:
    """Return the words of a prompt without punctuation."""
    return set(re.findall(r"\w+", prompt))


def mark(samples: Sequence[Sample], among: np.ndarray, holds: Callable[[Sample], bool]) -> np.ndarray:
    """Return where something holds, False where the label says nothing."""
    return np.array([bool(use and holds(sample)) for sample, use in zip(samples, among)])


def place_labels(samples: Sequence[Sample], statements: np.ndarray) -> Iterator[Label]:
    """Yield rows and columns of both named objects."""
    for number, who in enumerate(("first", "second")):
        for axis, names in (("row", ROWS), ("column", COLUMNS)):
            for index, name in enumerate(names):
                value = mark(samples, statements, lambda s, n=number, a=axis, i=index: named(s)[n][a] == i)
                yield Label(f"{who} object in {axis} {name}", "place", statements, value)


def relation_labels(samples: Sequence[Sample], statements: np.ndarray) -> Iterator[Label]:
    """Yield along each axis whether the first named object lies before the second, where they differ."""
    for axis, name in (("column", "left of"), ("row", "above")):
        differ = mark(samples, statements, lambda s, a=axis: named(s)[0][a] != named(s)[1][a])
        value = mark(samples, differ, lambda s, a=axis: named(s)[0][a] < named(s)[1][a])
        yield Label(f"first object {name} second", "relation", differ, value)


def truth_labels(samples: Sequence[Sample], statements: np.ndarray) -> Iterator[Label]:
    """Yield whether a statement is true, over all and relation by relation."""
    true = mark(samples, statements, lambda s: s.answer in AFFIRMED)
    yield Label("statement is true", "truth", statements, true)
    for relation in RELATIONS:
        among = mark(samples, statements, lambda s, r=relation: s.group == r)
        yield Label(f"'{relation}' is true", "truth", among, true)


def lexical_labels(samples: Sequence[Sample], statements: np.ndarray) -> Iterator[Label]:
    """Yield words of the prompt: relations among statements, colours and shapes among all."""
    everything = np.ones(len(samples), dtype=bool)
    for relation in RELATIONS:
        word = relation.split()[0]
        yield Label(
            f"word '{word}'",
            "lexical",
            statements,
            mark(samples, statements, lambda s, w=word: w in words_of(s.prompt)),
        )
    for word in (*COLOURS, *SHAPES):
        yield Label(
            f"word '{word}'",
            "lexical",
            everything,
            mark(samples, everything, lambda s, w=word: w in words_of(s.prompt)),
        )


def attribute_labels(samples: Sequence[Sample], statements: np.ndarray) -> Iterator[Label]:
    """Yield what the image shows beside places: sizes of named objects, colours and shapes of questions."""
    for number, who in enumerate(("first", "second")):
        value = mark(samples, statements, lambda s, n=number: named(s)[n]["size"] == "large")
        yield Label(f"{who} object is large", "attribute", statements, value)
    general = ~statements
    for key, words in (("colour", COLOURS), ("shape", SHAPES)):
        for word in words:
            value = mark(
                samples, general, lambda s, k=key, w=word: any(thing[k] == w for thing in s.scene["objects"])
            )
            yield Label(f"image shows {word}", "attribute", general, value)


def kind_labels(samples: Sequence[Sample], statements: np.ndarray) -> Iterator[Label]:
    """Yield the kind of prompt."""
    everything = np.ones(len(samples), dtype=bool)
    yield Label("is a spatial statement", "kind", everything, statements)
    for group in sorted({sample.group for sample in samples} - set(RELATIONS)):
        value = mark(samples, ~statements, lambda s, g=group: s.group == g)
        yield Label(f"asks about {group}", "kind", ~statements, value)


def answer_labels(samples: Sequence[Sample], statements: np.ndarray) -> Iterator[Label]:
    """Yield the right answer to each kind of general question."""
    pairs = sorted({(s.group, s.answer) for s, use in zip(samples, ~statements) if use})
    for group, answer in pairs:
        among = mark(samples, ~statements, lambda s, g=group: s.group == g)
        yield Label(
            f"answer to {group} is {answer}",
            "answer",
            among,
            mark(samples, among, lambda s, a=answer: s.answer == a),
        )


def all_labels(samples: Sequence[Sample]) -> list[Label]:
    """Return every label that at least `FEWEST` samples have and as many have not."""
    statements = np.array([is_statement(sample) for sample in samples])
    makers = (
        place_labels,
        relation_labels,
        truth_labels,
        lexical_labels,
        attribute_labels,
        kind_labels,
        answer_labels,
    )
    found = [label for maker in makers for label in maker(samples, statements)]
    return [
        label
        for label in found
        if min(label.value[label.among].sum(), (~label.value[label.among]).sum()) >= FEWEST
    ]
