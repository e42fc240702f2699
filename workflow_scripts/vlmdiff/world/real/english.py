"""The world's sentences in natural English, with punctuation, capitals and several templates a kind.

Scenes, kinds of exchanges and groups are those of the world's own language (vlmdiff/world/language.py), so
that all that reads its samples reads these too. Each answer to a closed question is one word.
"""

import random
from collections.abc import Collection

from vlmdiff.world.language import (
    COUNTS,
    RELATIONS,
    TRUTH,
    YES_NO,
    Exchange,
    ExchangeMaker,
    Relation,
    possible_relations,
)
from vlmdiff.world.scenes import COLOURS, SHAPES, SIZES, Scene, SceneObject

ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "center", "right")
PLACES = {"left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below"}
SIDES = {"column": ("left", "right"), "row": ("above", "below")}
# A statement's templates, and the answers to each.
STATEMENTS = (
    ("Is the {a} {place} the {b}?", YES_NO),
    ("The {a} is {place} the {b}. Is that right?", YES_NO),
    ("True or false: the {a} is {place} the {b}.", TRUTH),
)
# Answers by which a statement is true.
AFFIRMED = (YES_NO[True], TRUTH[True])
ROW_QUESTIONS = ("Which row is the {a} in: top, middle or bottom?", "In which row do you see the {a}?")
COLUMN_QUESTIONS = (
    "Which column is the {a} in: left, center or right?",
    "In which column do you see the {a}?",
)
RELATION_QUESTIONS = {
    "column": (
        "Is the {a} on the left or on the right of the {b}?",
        "Which side of the {b} is the {a} on, left or right?",
    ),
    "row": ("Is the {a} above or below the {b}?", "Does the {a} lie above or below the {b}?"),
}
SHAPE_QUESTIONS = ("What shape is the {a} object?", "Which shape is {a}?")
COLOUR_QUESTIONS = ("What color is the {a}?", "Which color does the {a} have?")
SIZE_QUESTIONS = ("Is the {a} small or large?", "What size is the {a}, small or large?")
EXISTENCE_QUESTIONS = ("Is there a {a} object?", "Do you see anything {a}?")
COUNT_QUESTIONS = ("How many {a} objects are there?", "What is the number of {a} objects?")
NEUTRAL_PROMPTS = (
    "Describe the image.",
    "What do you see?",
    "Tell me about the picture.",
    "What does the image show?",
)
DESCRIPTION_PROMPTS = ("Describe one of the objects.", "What is one of the objects like?")


def name_of(thing: SceneObject) -> str:
    """How sentences refer to an object, without an article."""
    return f"{thing.colour} {thing.shape}"


def article(word: str) -> str:
    """Return the indefinite article before a word."""
    return "an" if word[0] in "aeiou" else "a"


def ordered(scene: Scene, relation: Relation, truth: bool) -> tuple[SceneObject, SceneObject]:
    """Return both objects in the order in which the relation is true, or false, of them."""
    first, second = scene.objects
    return (first, second) if relation.holds(first, second) == truth else (second, first)


def relation_sentence(scene: Scene, relation: Relation) -> str:
    """Return the true sentence with a relation."""
    first, second = ordered(scene, relation, True)
    return f"The {name_of(first)} is {PLACES[relation.name]} the {name_of(second)}."


def true_relation_sentence(scene: Scene, rng: random.Random) -> str:
    """Return a true sentence about how the objects lie to one another."""
    return relation_sentence(scene, rng.choice(possible_relations(scene)))


def description(thing: SceneObject) -> str:
    """Return a true sentence with everything about one object."""
    place = f"in the {ROWS[thing.row]} row and the {COLUMNS[thing.column]} column"
    return f"The {name_of(thing)} is {thing.size} and lies {place}."


def inventory_sentence(scene: Scene, rng: random.Random) -> str:
    """Return a sentence that names what is there, and not where."""
    first, second = rng.sample(scene.objects, 2)
    named = (f"{article(one.colour)} {name_of(one)}" for one in (first, second))
    return f"There is {' and '.join(named)}."


def statements_of(scene: Scene, relation: Relation, truth: bool) -> list[Exchange]:
    """Return the statement with a relation that is true, or false, in each of its templates."""
    first, second = ordered(scene, relation, truth)
    words = {"a": name_of(first), "b": name_of(second), "place": PLACES[relation.name]}
    return [
        Exchange(
            "statement", relation.name, template.format(**words), answers[truth], tuple(answers.values())
        )
        for template, answers in STATEMENTS
    ]


def statement(scene: Scene, rng: random.Random, relations: Collection[str] = tuple(RELATIONS)) -> Exchange:
    """Ask whether a statement is true; half of them are. `relations` are preferred where a scene has them."""
    possible = possible_relations(scene)
    preferred = [relation for relation in possible if relation.name in relations]
    truth = rng.random() < 0.5
    return rng.choice(statements_of(scene, rng.choice(preferred or possible), truth))


def relation_question(scene: Scene, rng: random.Random) -> Exchange:
    """Ask how two objects lie to one another along one axis."""
    axis = rng.choice(sorted({relation.axis for relation in possible_relations(scene)}))
    first, second = rng.sample(scene.objects, 2)
    prompt = rng.choice(RELATION_QUESTIONS[axis]).format(a=name_of(first), b=name_of(second))
    group = {"column": "horizontal relation", "row": "vertical relation"}[axis]
    before, after = SIDES[axis]
    answer = before if getattr(first, axis) < getattr(second, axis) else after
    return Exchange("relation", group, prompt, answer, SIDES[axis])


def row_question(scene: Scene, rng: random.Random) -> Exchange:
    """Ask for the row of an object."""
    thing = rng.choice(scene.objects)
    return _about("row", rng.choice(ROW_QUESTIONS), name_of(thing), ROWS[thing.row], ROWS)


def column_question(scene: Scene, rng: random.Random) -> Exchange:
    """Ask for the column of an object."""
    thing = rng.choice(scene.objects)
    return _about("column", rng.choice(COLUMN_QUESTIONS), name_of(thing), COLUMNS[thing.column], COLUMNS)


def shape_question(scene: Scene, rng: random.Random) -> Exchange:
    """Ask for the shape of an object that is named by its colour."""
    thing = rng.choice(scene.objects)
    return _about("shape", rng.choice(SHAPE_QUESTIONS), thing.colour, thing.shape, SHAPES)


def colour_question(scene: Scene, rng: random.Random) -> Exchange:
    """Ask for the colour of an object that is named by its shape."""
    thing = rng.choice(scene.objects)
    return _about("colour", rng.choice(COLOUR_QUESTIONS), thing.shape, thing.colour, COLOURS)


def size_question(scene: Scene, rng: random.Random) -> Exchange:
    """Ask for the size of an object."""
    thing = rng.choice(scene.objects)
    return _about("size", rng.choice(SIZE_QUESTIONS), name_of(thing), thing.size, SIZES)


def existence_question(scene: Scene, rng: random.Random) -> Exchange:
    """Ask whether there is an object of some colour; half of the answers are yes."""
    present = {thing.colour for thing in scene.objects}
    exists = rng.random() < 0.5
    colour = rng.choice([one for one in COLOURS if (one in present) == exists])
    prompt = rng.choice(EXISTENCE_QUESTIONS).replace("a {a}", f"{article(colour)} {colour}")
    return _about("existence", prompt, colour, YES_NO[exists], tuple(YES_NO.values()))


def count_question(scene: Scene, rng: random.Random) -> Exchange:
    """Ask how many objects have some size."""
    size = rng.choice(SIZES)
    count = sum(thing.size == size for thing in scene.objects)
    return _about("count", rng.choice(COUNT_QUESTIONS), size, COUNTS[count], COUNTS)


def _about(kind: str, template: str, named: str, answer: str, choices: tuple[str, ...]) -> Exchange:
    return Exchange(kind, kind, template.format(a=named), answer, choices)


def caption(scene: Scene, rng: random.Random) -> Exchange:
    """Answer a neutral prompt by a true relational sentence."""
    prompt = rng.choice(NEUTRAL_PROMPTS)
    return Exchange("caption", "caption", prompt, true_relation_sentence(scene, rng), None)


def object_description(scene: Scene, rng: random.Random) -> Exchange:
    """Ask to describe one object, whichever."""
    answer = description(rng.choice(scene.objects))
    return Exchange("description", "description", rng.choice(DESCRIPTION_PROMPTS), answer, None)


MAKERS: dict[str, ExchangeMaker] = {
    "statement": statement,
    "relation": relation_question,
    "row": row_question,
    "column": column_question,
    "caption": caption,
    "description": object_description,
    "shape": shape_question,
    "colour": colour_question,
    "size": size_question,
    "existence": existence_question,
    "count": count_question,
}
DOCUMENT_SENTENCES = (3, 5)
DOCUMENT_MIX = {"relation": 0.4, "inventory": 0.15, "description": 0.3, "exchange": 0.15}


def document(scene: Scene, rng: random.Random) -> str:
    """Return a text of three to five sentences about one scene."""
    count = rng.randint(*DOCUMENT_SENTENCES)
    kinds = rng.choices(list(DOCUMENT_MIX), list(DOCUMENT_MIX.values()), k=count)
    return " ".join(_sentence(kind, scene, rng) for kind in kinds)


def _sentence(kind: str, scene: Scene, rng: random.Random) -> str:
    if kind == "relation":
        return true_relation_sentence(scene, rng)
    if kind == "inventory":
        return inventory_sentence(scene, rng)
    if kind == "description":
        return description(rng.choice(scene.objects))
    exchange = MAKERS[rng.choice([name for name in MAKERS if name not in ("caption", "description")])](
        scene, rng
    )
    return f"{exchange.prompt} {exchange.answer.capitalize()}."
