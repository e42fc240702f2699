"""The data sets shown to models: a folder that the user made, or one prepared from a public source."""

from __future__ import annotations

from functools import partial
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from vlmdiff.config.base import Count, Distinct, Name, Section
from vlmdiff.config.kinds import check_kind
from vlmdiff.config.parts import Parts
from vlmdiff.config.samples_file import is_canonical
from vlmdiff.config.sources import DataSource, LocalPath, check_source, find_source
from vlmdiff.config.transforms import Transform

YES_NO_PROMPT = "Is the following statement correct? Answer only with 'Yes' or 'No'. {caption}"
LETTER_PROMPT = "{question}\n{choices}\nAnswer with the letter of the right choice alone."
MISSING = "A missing image: `error` stops with a list, `skip` goes on without it and counts it."
FROM_THE_HUB = "a data set of the hub needs `kind` and `source: hub:OWNER/NAME@REVISION`, and no `images`"
PARTS = "How it is split where a `subset` names a part of it. The part `null` needs no quotes."


def skipping(name: str) -> str:
    """Say where `on_missing: skip` is written, also for what follows from `data`.

    Args:
        name: of the data set.
    """
    return f"write `datasets: {{ {name}: {{ on_missing: skip }} }}` to go on without them"


find_folder = partial(find_source, advice=FROM_THE_HUB)


def with_place(prompt: str, place: str) -> str:
    """Refuse a prompt without the place at which it differs from sample to sample.

    Raises:
        ValueError: naming the place.
    """
    if place not in prompt:
        raise ValueError(
            f"found '{prompt}', expected {place} in it: all samples would be asked the same; add it"
        )
    return prompt


class FolderDataset(Section):
    """Images of your own with samples.jsonl or samples.csv (docs/understand/formats.md)."""

    kind: Literal["folder"] = Field("folder", description="A folder of your own; may be left out.")
    path: Annotated[str, AfterValidator(find_folder)] = Field(
        description="Folder with samples.jsonl or samples.csv and the images that it names; or that file."
    )
    samples: Count | None = Field(
        None, description="How many samples to use, from the first on; left out: all, which are counted."
    )
    parts: Parts = Field(Parts(), description=PARTS)
    on_missing: Literal["error", "skip"] = Field("error", description=MISSING)
    text_tokens: Count = Field(20, description="Text tokens of a sample, to plan storage.")


class PreparedDataset(Section):
    """What all public sources share (docs/configure/prepare_dataset.md)."""

    source: DataSource = Field(description="Local folder or file, or `hub:OWNER/NAME@REVISION`.")
    split: str = Field("train", description="Split of the source.")
    samples: Count = Field(description="How many samples to use; fewer only if images are skipped.")
    offset: int = Field(
        0, ge=0, description="Samples to leave out first, so that sets of one split do not overlap."
    )
    seed: int = Field(0, ge=0, description="Order in which samples are taken; the same order for one seed.")
    parts: Parts = Field(Parts(), description=PARTS)
    on_missing: Literal["error", "skip"] = Field("error", description=MISSING)
    text_tokens: Count = Field(20, description="Text tokens of a sample, to plan storage.")

    @model_validator(mode="after")
    def pairs_are_whole(self) -> PreparedDataset:
        """An odd number of samples would part a pair."""
        for key in ("samples", "offset") if getattr(self, "pairs", False) else ():
            if (found := getattr(self, key)) % 2:
                raise ValueError(f"{key}: found {found} with `pairs: true`, expected an even number")
        return self

    @field_validator("images", check_fields=False)
    @classmethod
    def images_are_local(cls, value: str | None) -> str | None:
        """See `find_source`."""
        return None if value is None else find_folder(value)

    @field_validator("image_cache", check_fields=False)
    @classmethod
    def cache_is_local(cls, value: str) -> str:
        """See `check_source`; what is written belongs to the working directory."""
        return check_source(value, advice=FROM_THE_HUB)


class QuestionDataset(PreparedDataset):
    """Questions about images, all of them or those that use the spatial vocabulary."""

    questions: Literal["all", "spatial", "not_spatial"] = Field(
        "all", description="Only questions that use the spatial vocabulary, or only those that do not."
    )
    prompt: Annotated[str, AfterValidator(partial(with_place, place="{question}"))] = Field(
        "{question}", description="Prompt; `{question}` stands for the question."
    )


class VqaDataset(QuestionDataset):
    """VQAv2, from the hub or from the official JSON files with a folder of COCO images."""

    kind: Literal["vqav2"] = Field(description="VQAv2.")
    images: str | None = Field(
        None, description="Folder of COCO images, for the official JSON files; the hub brings its own."
    )
    answers: Literal["any", "yes_no"] = Field(
        "any", description="`yes_no`: questions that are answered so, with both as choices."
    )
    pairs: bool = Field(
        False,
        description="Only complementary pairs, two images and two answers for one question, with both "
        "questions of each; needs the official files, one of which lists them. Each has a key `pair`.",
    )


class GqaDataset(QuestionDataset):
    """GQA: questions made from scene graphs of Visual Genome's images, each with its program."""

    kind: Literal["gqa"] = Field(description="GQA.")
    source: LocalPath = Field(description="Local folder with the authors' files of questions.")
    split: str = Field(
        "train_balanced",
        description="Beginning of the file's name: `train_balanced`, `val_balanced`, `testdev_balanced`.",
    )
    images: str = Field(description="Folder of the authors' images, named by number.")
    coco_ids: LocalPath | None = Field(
        None,
        description="Visual Genome's `image_data.json`, which tells which pictures are COCO's: by their "
        "numbers they are recognised in VQAv2 and VSR.",
    )
    answers: Literal["any", "yes_no", "choices"] = Field(
        "any",
        description="`yes_no`: questions that are answered so; `choices`: these, and those that name the "
        "possible answers.",
    )
    group_by: Literal["spatial", "relation", "structural", "semantic", "detailed"] = Field(
        "spatial",
        description="A sample's group: the spatial group of its question, else its semantic type; the "
        "relation that it asks about; or one of GQA's types.",
    )


class StatementDataset(PreparedDataset):
    """Statements about images, true or false."""

    prompt: Annotated[str, AfterValidator(partial(with_place, place="{caption}"))] = Field(
        YES_NO_PROMPT, description="Prompt; `{caption}` stands for the statement."
    )
    group_by: Literal["relation", "answer"] = Field(
        "relation", description="A sample's group: its relation, or whether it is true (`Yes`) or not (`No`)."
    )


class VsrDataset(StatementDataset):
    """Visual Spatial Reasoning: captions over COCO images, true or false."""

    kind: Literal["vsr"] = Field(description="Visual Spatial Reasoning.")
    images: str | None = Field(
        None, description="Folder of COCO images; left out: images are fetched by the annotations' links."
    )
    image_cache: str = Field("resources/images/coco", description="Folder in which fetched images are kept.")


class WhatsUpDataset(StatementDataset):
    """What's Up: photographs of two objects in controlled relations."""

    kind: Literal["whatsup"] = Field(description="What's Up.")
    source: LocalPath = Field(description="Local folder with the annotations and the images.")


# Tasks of CV-Bench by the dimension, and with it the table, in which they lie.
DIMENSIONS = MappingProxyType({"Relation": "2D", "Count": "2D", "Depth": "3D", "Distance": "3D"})


class CvBenchDataset(PreparedDataset):
    """CV-Bench: questions of multiple choice about COCO, ADE20K and Omni3D images."""

    kind: Literal["cvbench"] = Field(description="CV-Bench.")
    split: Literal["test"] = Field("test", description="It has this split alone.")
    tasks: Annotated[list[Literal["Relation", "Count", "Depth", "Distance"]], Distinct] = Field(
        ["Relation"],
        min_length=1,
        description="Its tasks: where one of two objects lies (2D), how many there are (2D), which is closer "
        "to the camera (3D) or to a third one (3D).",
    )
    prompt: Annotated[
        str,
        AfterValidator(partial(with_place, place="{question}")),
        AfterValidator(partial(with_place, place="{choices}")),
    ] = Field(
        LETTER_PROMPT,
        description="Prompt; `{question}` stands for the question, `{choices}` for a line with letter and "
        "text of each choice.",
    )
    group_by: Literal["relation", "task", "answer"] = Field(
        "relation",
        description="A sample's group: the text of the right choice where a relation is asked for, else its "
        "task; its task; or the letter of the right choice.",
    )

    @property
    def config(self) -> str | None:
        """The configuration on the hub that holds its tasks; None for both dimensions."""
        found = {DIMENSIONS[task] for task in self.tasks}
        return found.pop() if len(found) == 1 else None

    @property
    def files(self) -> str:
        """How the names of the files begin that hold its tasks."""
        return self.split if self.config is None else f"{self.split}_{self.config.lower()}"


class TextDataset(PreparedDataset):
    """A plain text corpus: documents for a language model."""

    kind: Literal["text"] = Field(description="A text corpus.")
    config: str | None = Field(None, description="Configuration of the hub's data set, if it has several.")
    column: str = Field("text", description="Column that holds the document.")
    words: Count = Field(96, description="Documents are cut after this many words.")


class SubsetDataset(Section):
    """Part of another data set: some of its images, some of its groups, its texts alone, or other images."""

    kind: Literal["subset"] = Field(description="Part of another data set.")
    of: Name = Field(description="The other data set, also one of the built-in world, or a subset.")
    part: Literal["all", "train", "null", "validation", "test"] = Field(
        "all", description="Part of its images (`parts` of the other data set). `null` needs no quotes."
    )
    groups: list[str] | None = Field(None, description="Only these groups; all if left out.")
    without: list[str] = Field([], description="Not these groups.")
    scored: bool = Field(
        False, description="Only samples with `choices` and `answer`, without which no answer can be scored."
    )
    images: bool = Field(True, description="`false`: the texts alone, for what a language model reads.")
    transform: Transform | None = Field(
        None,
        description="What is done to every image. Answers and choices are left out: they may no longer be "
        "right.",
    )
    samples: Count | None = Field(
        None,
        description="At most this many samples, from the first on. Left out: all, where they can be counted "
        "before anything runs, in a folder of your own; of other data sets it is needed.",
    )
    text_tokens: Count | None = Field(None, description="As in the other data set if left out.")

    @model_validator(mode="after")
    def transform_has_images(self) -> SubsetDataset:
        """Texts alone have nothing to transform, and no answer to be scored."""
        for key, wrong in (("images", not self.images), ("scored", self.scored)):
            if self.transform is not None and wrong:
                raise ValueError(
                    f"{key}: found {getattr(self, key)} with `transform`, expected {not getattr(self, key)}: "
                    "transformed samples are images without answers; leave it out"
                )
        return self

    @field_validator("part", mode="before")
    @classmethod
    def null_is_a_part(cls, value: Any) -> Any:
        """YAML reads `null` as nothing."""
        return "null" if value is None else value


def kind_of(value: Any) -> str:
    """Return the kind of an entry; a folder if it names none."""
    if not isinstance(value, dict):
        return getattr(value, "kind", "folder")
    kind = value.get("kind", "folder")
    return kind if isinstance(kind, str) else str(kind)


Dataset = Annotated[
    Annotated[FolderDataset, Tag("folder")]
    | Annotated[VqaDataset, Tag("vqav2")]
    | Annotated[GqaDataset, Tag("gqa")]
    | Annotated[VsrDataset, Tag("vsr")]
    | Annotated[WhatsUpDataset, Tag("whatsup")]
    | Annotated[CvBenchDataset, Tag("cvbench")]
    | Annotated[TextDataset, Tag("text")]
    | Annotated[SubsetDataset, Tag("subset")],
    Discriminator(kind_of),
    BeforeValidator(check_kind),
]


def is_prepared(entry: Any) -> bool:
    """Tell whether a data set has to be prepared before it can be read.

    Raises:
        DataError: the samples file of a folder is wrong.
    """
    if not isinstance(entry, FolderDataset):
        return isinstance(entry, PreparedDataset | SubsetDataset)
    return entry.on_missing == "skip" or not is_canonical(entry.path)
