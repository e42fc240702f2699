"""The data sets that the analysis reads: a samples.jsonl beside a folder of drawn images."""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vlmdiff.config.world import Grouping, WorldConfig, WorldDataset
from vlmdiff.runtime import replacing, replacing_folder
from vlmdiff.world.curriculum import BASE_MIX
from vlmdiff.world.draw import draw_image
from vlmdiff.world.language import (
    GENERAL_KINDS,
    MAKERS,
    OPEN_KINDS,
    RELATIONS,
    Exchange,
    ExchangeMaker,
    Relation,
    document,
    possible_relations,
    statement_of,
)
from vlmdiff.world.real import english
from vlmdiff.world.real.curriculum import TAUGHT_MIX
from vlmdiff.world.scenes import Scene, scene_splits
from vlmdiff.world.seeds import random_stream

TEXT_GROUP = "text"
OPEN_GROUPS = ("horizontal relation", "vertical relation", "row", "column")
MAX_DRAWS = 100_000


@dataclass(frozen=True)
class Language:
    """In which words scenes are described and asked about.

    Attributes:
        makers: by kind, what draws an exchange about a scene.
        mix: how often each kind is asked in tuning.
        statements: the statement with a relation that is true, or false, of a scene: one a template.
        document: what draws a text about a scene.
    """

    makers: Mapping[str, ExchangeMaker]
    mix: Mapping[str, float]
    statements: Callable[[Scene, Relation, bool], list[Exchange]]
    document: Callable[[Scene, random.Random], str]


WORDS = Language(
    MAKERS, BASE_MIX, lambda scene, relation, truth: [statement_of(scene, relation, truth)], document
)
ENGLISH = Language(english.MAKERS, TAUGHT_MIX, english.statements_of, english.document)
LANGUAGES = {"words": WORDS, "english": ENGLISH}


@dataclass(frozen=True)
class SampleLine:
    """One line of samples.jsonl before it is numbered; without an exchange it is plain text."""

    scene: Scene
    prompt: str
    exchange: Exchange | None = None

    def row(self, sample_id: str, image: str | None, group_by: Grouping = "kind") -> dict:
        """The line's JSON object; statements carry VSR's keys too, and the objects that they name, in order.

        Args:
            sample_id: its name.
            image: path of its image, None for text.
            group_by: whether its group is the relation or kind of question, or the right answer.
        """
        row = {
            "sample_id": sample_id,
            "image": image,
            "prompt": self.prompt,
            "answer": None,
            "choices": None,
            "group": TEXT_GROUP,
            "scene": scene_graph(self.scene),
        }
        if self.exchange is None:
            return row | {"chat": False}
        row["group"] = self.exchange.group if group_by == "kind" else self.exchange.answer
        if self.exchange.choices is not None:
            row |= {"answer": self.exchange.answer, "choices": list(self.exchange.choices)}
        if self.exchange.kind == "statement":
            label = int(is_affirmed(self.exchange))
            row |= {"caption": self.prompt, "label": label, "relation": self.exchange.group}
            row |= dict(zip(("first", "second"), named_objects(self.prompt, row["scene"]["objects"])))
        return row


def is_affirmed(exchange: Exchange) -> bool:
    """Tell whether a statement's right answer says that it is true."""
    return exchange.answer in english.AFFIRMED


def scene_graph(scene: Scene) -> dict:
    """The scene as plain JSON: its objects and every relation that holds between them."""
    keys = ("colour", "shape", "size", "row", "column")
    relations = [
        {"subject": subject, "relation": relation.name, "object": reference}
        for subject, reference in ((0, 1), (1, 0))
        for relation in RELATIONS.values()
        if relation.holds(scene.objects[subject], scene.objects[reference])
    ]
    objects = [{key: getattr(thing, key) for key in keys} for thing in scene.objects]
    return {"objects": objects, "relations": relations}


def named_objects(prompt: str, objects: Sequence[dict]) -> list[dict]:
    """Return the objects of a scene in the order in which a statement names them."""
    return sorted(objects, key=lambda thing: prompt.find(f"{thing['colour']} {thing['shape']}"))


def text_samples(
    scenes: list[Scene], count: int, rng: random.Random, language: Language = WORDS
) -> list[SampleLine]:
    """Documents about random scenes."""
    return [SampleLine(scene, language.document(scene, rng)) for scene in rng.choices(scenes, k=count)]


def mixed_samples(
    scenes: list[Scene], count: int, rng: random.Random, language: Language = WORDS
) -> list[SampleLine]:
    """Exchanges of all kinds, as frequent as in tuning."""
    kinds = rng.choices(list(language.mix), list(language.mix.values()), k=count)
    chosen = rng.choices(scenes, k=count)
    exchanges = [language.makers[kind](scene, rng) for kind, scene in zip(kinds, chosen, strict=True)]
    return [SampleLine(s, e.prompt, e) for s, e in zip(chosen, exchanges, strict=True)]


def balanced_samples(
    groups: dict[str, str],
    scenes: list[Scene],
    count: int,
    rng: random.Random,
    language: Language = WORDS,
) -> list[SampleLine]:
    """Different questions, equally many of each group and of each answer within a group.

    Args:
        groups: group -> kind of question that yields it.
        scenes: scenes to ask about.
        count: number of samples.
        rng: random stream.
        language: in which they are asked.

    Raises:
        ValueError: if the scenes do not hold enough different questions.
    """
    names, seen = list(groups), set()
    answers: dict[str, Counter] = defaultdict(Counter)
    samples = []
    for index in range(count):
        group = names[index % len(names)]
        for _ in range(MAX_DRAWS):
            scene = rng.choice(scenes)
            exchange = language.makers[groups[group]](scene, rng)
            if (scene, exchange.prompt) in seen or exchange.group != group:
                continue
            counts = answers[group]
            if counts[exchange.answer] == min(counts[choice] for choice in exchange.choices):
                break
        else:
            raise ValueError(
                f"found no {count // len(names)} different '{group}' questions in {len(scenes)} scenes: "
                "ask for fewer samples or more scenes"
            )
        seen.add((scene, exchange.prompt))
        answers[group][exchange.answer] += 1
        samples.append(SampleLine(scene, exchange.prompt, exchange))
    return samples


def general_samples(
    scenes: list[Scene], count: int, rng: random.Random, language: Language = WORDS
) -> list[SampleLine]:
    """Balanced questions that need no spatial relation."""
    return balanced_samples({kind: kind for kind in GENERAL_KINDS}, scenes, count, rng, language)


def spatial_open_samples(
    scenes: list[Scene], count: int, rng: random.Random, language: Language = WORDS
) -> list[SampleLine]:
    """Balanced questions for a relation, a row or a column."""
    kinds = ("relation", *OPEN_KINDS)
    return balanced_samples(dict(zip(OPEN_GROUPS, kinds, strict=True)), scenes, count, rng, language)


def spatial_samples(
    scenes: list[Scene], count: int, rng: random.Random, language: Language = WORDS
) -> list[SampleLine]:
    """Statements in pairs of equal text, true of one scene and false of another.

    So text alone tells nothing at all about truth, in the whole and within each relation.

    Raises:
        ValueError: if the scenes do not hold enough pairs.
    """
    pairs = _statement_pairs(scenes, rng, language)
    wanted = count // (2 * len(RELATIONS))
    for name, found in pairs.items():
        if len(found) < wanted:
            raise ValueError(
                f"found {len(found)} pairs of '{name}' statements in {len(scenes)} scenes, and {wanted} "
                "are needed: ask for fewer samples or more scenes"
            )
    return [sample for found in pairs.values() for pair in found[:wanted] for sample in pair]


def _statement_pairs(
    scenes: list[Scene], rng: random.Random, language: Language
) -> dict[str, list[tuple[SampleLine, SampleLine]]]:
    """Shuffled (true, false) pairs of statements with one text, by relation."""
    by_text: dict[Exchange, list[SampleLine]] = defaultdict(list)
    for scene in rng.sample(scenes, len(scenes)):
        for relation in possible_relations(scene):
            for truth in (True, False):
                for exchange in language.statements(scene, relation, truth):
                    by_text[exchange].append(SampleLine(scene, exchange.prompt, exchange))
    pairs: dict[str, list[tuple[SampleLine, SampleLine]]] = {name: [] for name in RELATIONS}
    for exchange, true_samples in by_text.items():
        if is_affirmed(exchange):
            (denial,) = (one for one in exchange.choices if one != exchange.answer)
            opposite = replace(exchange, answer=denial)
            # The rarer of the two truths decides how many pairs a text gives.
            pairs[exchange.group] += zip(true_samples, by_text.get(opposite, []), strict=False)
    for found in pairs.values():
        rng.shuffle(found)
    return pairs


SampleMaker = Callable[[list[Scene], int, random.Random, Language], list[SampleLine]]
SAMPLE_MAKERS: dict[str, SampleMaker] = {
    "text": text_samples,
    "general": general_samples,
    "spatial": spatial_samples,
    "spatial_open": spatial_open_samples,
    "mixed": mixed_samples,
}


def make_samples(
    spec: WorldDataset, scenes: list[Scene], seed: int, language: Language = WORDS
) -> list[SampleLine]:
    """Draw the samples of a data set in random order."""
    rng = random_stream(seed, "dataset", spec.kind, spec.scenes, spec.seed)
    samples = SAMPLE_MAKERS[spec.kind](scenes, spec.samples, rng, language)
    rng.shuffle(samples)
    return samples


def write_dataset(config: WorldConfig, name: str, samples_jsonl: Path, images_dir: Path) -> None:
    """Write one data set of the configuration; a text data set has an empty image folder.

    Args:
        config: the world's configuration, which declares the data set.
        name: the data set's name.
        samples_jsonl: file to write, one JSON object a line.
        images_dir: folder of PNG images to write, beside `samples_jsonl`.
    """
    spec = config.datasets[name]
    scenes = scene_splits(config.scenes.model_dump(), config.seed)[spec.scenes]
    samples = make_samples(spec, scenes, config.seed, LANGUAGES[config.language])
    with replacing_folder(images_dir) as folder:
        images = [None] * len(samples) if spec.kind == "text" else list(_write_images(samples, folder))
    rows = (
        sample.row(f"{name}-{index:06d}", image and f"{images_dir.name}/{image}", spec.group_by)
        for index, (sample, image) in enumerate(zip(samples, images, strict=True))
    )
    with replacing(samples_jsonl) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_images(samples: list[SampleLine], folder: Path) -> Iterable[str]:
    for index, sample in enumerate(samples):
        file = f"{index:06d}.png"
        draw_image(sample.scene).save(folder / file)
        yield file
