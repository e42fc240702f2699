"""The world's sentences: captions, statements, questions and text documents.

Every sentence that a model of this world reads comes from here, so that training and
analysis cannot drift apart. Words are separated by single blanks, punctuation included.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from vlmdiff.world.scenes import COLOURS, SHAPES, SIZES, Scene, SceneObject

ASSISTANT = "assistant"
ROWS = ("top", "middle", "bottom")
COLUMNS = ("leftmost", "central", "rightmost")
COUNTS = ("zero", "one", "two")
TRUTH = {True: "true", False: "false"}
YES_NO = {True: "yes", False: "no"}
NEUTRAL_PROMPTS = [
    "describe the image .",
    "what do you see ?",
    "tell me about the picture .",
    "what does the image show ?",
]
DESCRIPTION_PROMPTS = ["describe one of the objects .", "what is one of the objects like ?"]
FUNCTION_WORDS = (
    f"{ASSISTANT} . , ? a and are colour column horizontally how image in is many objects of one "
    "relative row shape shows size the there to vertically what where which"
)


@dataclass(frozen=True)
class Relation:
    """A spatial relation: subject before (-1) or after (+1) the object along one axis."""

    name: str
    axis: str
    direction: int

    def holds(self, subject: SceneObject, reference: SceneObject) -> bool:
        """Whether the subject stands in this relation to the reference."""
        offset = getattr(subject, self.axis) - getattr(reference, self.axis)
        return offset * self.direction > 0


RELATIONS = {
    relation.name: relation
    for relation in (
        Relation("left of", "column", -1),
        Relation("right of", "column", +1),
        Relation("above", "row", -1),
        Relation("below", "row", +1),
    )
}


@dataclass(frozen=True)
class Exchange:
    """One prompt about a scene with its true answer.

    `kind` names the question for the curriculum, `group` for tables (a statement's group is
    its relation); `choices` are all answers of that group, None where the answer is free text.
    """

    kind: str
    group: str
    prompt: str
    answer: str
    choices: tuple[str, ...] | None

    def text(self) -> str:
        """The exchange as the models read it, without special tokens."""
        return f"{self.prompt} {ASSISTANT} {self.answer}"


def name_of(thing: SceneObject) -> str:
    """How sentences refer to an object."""
    return f"the {thing.colour} {thing.shape}"


def possible_relations(scene: Scene) -> list[Relation]:
    """Relations that can be stated about a scene: its objects differ along their axis."""
    first, second = scene.objects
    return [r for r in RELATIONS.values() if getattr(first, r.axis) != getattr(second, r.axis)]


def relation_sentence(scene: Scene, relation: Relation, truth: bool) -> str:
    """The statement with this relation that is true, or false, of a scene.

    Raises:
        ValueError: if the objects do not differ along the relation's axis.
    """
    if relation not in possible_relations(scene):
        raise ValueError(f"'{relation.name}' is undefined where both share one {relation.axis}")
    first, second = scene.objects
    if relation.holds(first, second) != truth:
        first, second = second, first
    return f"{name_of(first)} is {relation.name} {name_of(second)} ."


def description(thing: SceneObject) -> str:
    """A true sentence with everything about one object.

    Every word after the name follows from the name and the image, which makes descriptions the
    densest lesson in what is where.
    """
    place = f"in row {ROWS[thing.row]} and column {COLUMNS[thing.column]}"
    return f"{name_of(thing)} is {thing.size} , {place} ."


def inventory_sentence(scene: Scene, rng: random.Random) -> str:
    """A caption that names the objects but not where they are."""
    first, second = rng.sample(scene.objects, 2)
    return f"the image shows a {first.colour} {first.shape} and a {second.colour} {second.shape} ."


def true_relation_sentence(scene: Scene, rng: random.Random) -> str:
    """A true statement with a relation drawn from the possible ones."""
    return relation_sentence(scene, rng.choice(possible_relations(scene)), truth=True)


def statement(scene: Scene, rng: random.Random, relations: tuple[str, ...] = tuple(RELATIONS)) -> Exchange:
    """A true or false statement; `relations` are preferred where the scene allows them."""
    possible = possible_relations(scene)
    preferred = [relation for relation in possible if relation.name in relations]
    relation = rng.choice(preferred or possible)
    return statement_of(scene, relation, truth=rng.random() < 0.5)


def statement_of(scene: Scene, relation: Relation, truth: bool) -> Exchange:
    """The statement with a given relation and truth."""
    prompt = relation_sentence(scene, relation, truth)
    return Exchange("statement", relation.name, prompt, TRUTH[truth], tuple(TRUTH.values()))


def relation_question(scene: Scene, rng: random.Random) -> Exchange:
    """Ask for the relation of two objects along one axis."""
    axis = rng.choice(possible_relations(scene)).axis
    subject, reference = rng.sample(scene.objects, 2)
    along = {r.name: r for r in RELATIONS.values() if r.axis == axis}
    answer = next(name for name, r in along.items() if r.holds(subject, reference))
    axis_name = {"column": "horizontal", "row": "vertical"}[axis]
    prompt = f"{axis_name}ly , where is {name_of(subject)} relative to {name_of(reference)} ?"
    choices = tuple(name.removesuffix(" of") for name in along)
    return Exchange("relation", f"{axis_name} relation", prompt, answer.removesuffix(" of"), choices)


def row_question(scene: Scene, rng: random.Random) -> Exchange:
    """Ask for the row of an object."""
    thing = rng.choice(scene.objects)
    return Exchange("row", "row", f"which row is {name_of(thing)} in ?", ROWS[thing.row], ROWS)


def column_question(scene: Scene, rng: random.Random) -> Exchange:
    """Ask for the column of an object."""
    thing = rng.choice(scene.objects)
    prompt = f"which column is {name_of(thing)} in ?"
    return Exchange("column", "column", prompt, COLUMNS[thing.column], COLUMNS)


def shape_question(scene: Scene, rng: random.Random) -> Exchange:
    """Ask for the shape of an object that is named by its colour."""
    thing = rng.choice(scene.objects)
    return Exchange("shape", "shape", f"what shape is the {thing.colour} one ?", thing.shape, SHAPES)


def colour_question(scene: Scene, rng: random.Random) -> Exchange:
    """Ask for the colour of an object that is named by its shape."""
    thing = rng.choice(scene.objects)
    prompt = f"what colour is the {thing.shape} ?"
    return Exchange("colour", "colour", prompt, thing.colour, COLOURS)


def size_question(scene: Scene, rng: random.Random) -> Exchange:
    """Ask for the size of an object."""
    thing = rng.choice(scene.objects)
    return Exchange("size", "size", f"what size is {name_of(thing)} ?", thing.size, SIZES)


def existence_question(scene: Scene, rng: random.Random) -> Exchange:
    """Ask whether there is an object of some colour; half of the answers are yes."""
    present = {thing.colour for thing in scene.objects}
    exists = rng.random() < 0.5
    colour = rng.choice([c for c in COLOURS if (c in present) == exists])
    prompt = f"is there a {colour} one ?"
    return Exchange("existence", "existence", prompt, YES_NO[exists], tuple(YES_NO.values()))


def count_question(scene: Scene, rng: random.Random) -> Exchange:
    """Ask how many objects have some size."""
    size = rng.choice(SIZES)
    count = sum(thing.size == size for thing in scene.objects)
    prompt = f"how many {size} objects are there ?"
    return Exchange("count", "count", prompt, COUNTS[count], COUNTS)


def caption(scene: Scene, rng: random.Random) -> Exchange:
    """A neutral prompt answered by a true relational sentence."""
    prompt = rng.choice(NEUTRAL_PROMPTS)
    return Exchange("caption", "caption", prompt, true_relation_sentence(scene, rng), None)


def object_description(scene: Scene, rng: random.Random) -> Exchange:
    """A request to describe one object, whichever."""
    answer = description(rng.choice(scene.objects))
    return Exchange("description", "description", rng.choice(DESCRIPTION_PROMPTS), answer, None)


ExchangeMaker = Callable[[Scene, random.Random], Exchange]
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
QUESTION_KINDS = tuple(kind for kind in MAKERS if kind not in ("caption", "description"))
GENERAL_KINDS = ("shape", "colour", "size", "existence", "count")
OPEN_KINDS = ("relation", "row", "column")

DOCUMENT_SENTENCES = (3, 5)
DOCUMENT_MIX = {"relation": 0.4, "inventory": 0.1, "description": 0.2, "exchange": 0.3}


def document(scene: Scene, rng: random.Random) -> str:
    """A text of three to five sentences about one scene, for the base language model."""
    count = rng.randint(*DOCUMENT_SENTENCES)
    kinds = rng.choices(list(DOCUMENT_MIX), list(DOCUMENT_MIX.values()), k=count)
    return " ".join(_document_sentence(kind, scene, rng) for kind in kinds)


def _document_sentence(kind: str, scene: Scene, rng: random.Random) -> str:
    if kind == "relation":
        return true_relation_sentence(scene, rng)
    if kind == "inventory":
        return inventory_sentence(scene, rng)
    if kind == "description":
        return description(rng.choice(scene.objects))
    return MAKERS[rng.choice(list(MAKERS))](scene, rng).text()


def vocabulary() -> list[str]:
    """All words of the language, sorted."""
    lists = (COLOURS, SHAPES, SIZES, ROWS, COLUMNS, COUNTS, TRUTH.values(), YES_NO.values())
    phrases = [word for words in lists for word in words]
    phrases += [FUNCTION_WORDS, *RELATIONS, *NEUTRAL_PROMPTS, *DESCRIPTION_PROMPTS]
    return sorted({word for phrase in phrases for word in phrase.split()})
