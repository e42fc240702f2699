"""The data sets shown to models: a folder that the user made, or one prepared from a public source."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator

from vlmdiff.config.base import Count, Section
from vlmdiff.config.sources import DataSource, LocalPath, check_source

YES_NO_PROMPT = "Is the following statement correct? Answer only with 'Yes' or 'No'. {caption}"
MISSING = "A missing image: `error` stops with a list, `skip` goes on without it and counts it."
FROM_THE_HUB = "a data set of the hub needs `kind` and `source: hub:OWNER/NAME@REVISION`, and no `images`"
check_folder = partial(check_source, advice=FROM_THE_HUB)


class FolderDataset(Section):
    """A folder of images with a samples.jsonl; docs/understand/formats.md describes its keys."""

    kind: Literal["folder"] = Field("folder", description="A folder of your own; may be left out.")
    path: Annotated[str, AfterValidator(check_folder)] = Field(
        description="Folder that holds samples.jsonl and the images that it names."
    )
    samples: Count = Field(description="How many samples to use, from the first on.")
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
    on_missing: Literal["error", "skip"] = Field("error", description=MISSING)
    text_tokens: Count = Field(20, description="Text tokens of a sample, to plan storage.")

    @field_validator("images", "image_cache", check_fields=False)
    @classmethod
    def folders_are_local(cls, value: str | None) -> str | None:
        """See `check_source`."""
        return None if value is None else check_folder(value)


class VqaDataset(PreparedDataset):
    """VQAv2, from the hub or from the official JSON files with a folder of COCO images."""

    kind: Literal["vqav2"] = Field(description="VQAv2.")
    images: str | None = Field(
        None, description="Folder of COCO images, for the official JSON files; the hub brings its own."
    )
    questions: Literal["all", "spatial", "not_spatial"] = Field(
        "all", description="Only questions that use the spatial vocabulary, or only those that do not."
    )
    answers: Literal["any", "yes_no"] = Field(
        "any", description="`yes_no`: questions that are answered so, with both as choices."
    )
    prompt: str = Field("{question}", description="Prompt; `{question}` stands for the question.")


class StatementDataset(PreparedDataset):
    """Statements about images, true or false."""

    prompt: str = Field(YES_NO_PROMPT, description="Prompt; `{caption}` stands for the statement.")
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


class TextDataset(PreparedDataset):
    """A plain text corpus: documents for a language model."""

    kind: Literal["text"] = Field(description="A text corpus.")
    config: str | None = Field(None, description="Configuration of the hub's data set, if it has several.")
    column: str = Field("text", description="Column that holds the document.")
    words: Count = Field(96, description="Documents are cut after this many words.")


def kind_of(value: Any) -> str:
    """Return the kind of an entry; a folder if it names none."""
    if not isinstance(value, dict):
        return getattr(value, "kind", "folder")
    kind = value.get("kind", "folder")
    return kind if isinstance(kind, str) else str(kind)


Dataset = Annotated[
    Annotated[FolderDataset, Tag("folder")]
    | Annotated[VqaDataset, Tag("vqav2")]
    | Annotated[VsrDataset, Tag("vsr")]
    | Annotated[WhatsUpDataset, Tag("whatsup")]
    | Annotated[TextDataset, Tag("text")],
    Discriminator(kind_of),
]


def is_prepared(entry: Any) -> bool:
    """Tell whether a data set has to be prepared before it can be read."""
    return isinstance(entry, PreparedDataset) or getattr(entry, "on_missing", "error") == "skip"
