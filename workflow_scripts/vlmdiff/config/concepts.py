"""Concepts: what shows them, and by which contrast the features that encode them are found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf, log10
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from vlmdiff.config.base import Distinct, Name, Probability, Section, writable

COUNTS, TEXT_MATCHED, COUNTERFACTUAL = "counts", "text_matched", "counterfactual"
CONTRASTS = (COUNTS, TEXT_MATCHED, COUNTERFACTUAL)


def not_blank(text: str) -> str:
    """Refuse a text of blanks alone."""
    if not text.strip():
        raise ValueError(f"found {text!r}, expected a text; leave it out")
    return text


def not_empty(texts: list[str]) -> list[str]:
    """Refuse a list of nothing."""
    if not texts:
        raise ValueError("found an empty list, expected at least one text; leave it out for the default")
    return texts


Text = Annotated[str, AfterValidator(not_blank)]
OneOrSeveral = Annotated[
    Annotated[Text, Tag("text")] | Annotated[list[Text], Distinct, AfterValidator(not_empty), Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list) else "text"),
]

# Names that a sentence tells.
NAMES_SHOWN = 4


class SampleSet(Section):
    """Samples of a data set, all of them or those of some groups."""

    dataset: Name = Field(description="The data set.")
    groups: Annotated[list[str], Distinct] | None = Field(
        None, description="Only these groups; all if left out."
    )
    without: Annotated[list[str], Distinct] = Field([], description="Not these groups.")

    @model_validator(mode="after")
    def some_are_left(self) -> SampleSet:
        """Refuse groups of which none is left."""
        if self.groups is not None and not set(self.groups) - set(self.without):
            less = f" without {self.without}" if self.groups else ""
            raise ValueError(
                f"groups: found {self.groups}{less}, which leaves no sample; name a group, or "
                "leave `groups` out for all"
            )
        return self

    def __str__(self) -> str:
        """Write it as people read it."""
        groups = "" if self.groups is None else f" ({some(self.groups)})"
        return f"{self.dataset}{groups}" + (f" without {some(self.without)}" if self.without else "")


def some(names: Sequence[str]) -> str:
    """Write the first of several names, and how many more there are."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


class Concept(Section):
    """What concepts of all contrasts say."""

    groups: list[Text] | None = Field(
        None,
        # They stand in target and baseline then.
        exclude=True,
        description="With `data`: groups of its samples that show the concept; in the place of `target`, and "
        "of `baseline`, which is all others.",
    )
    target: SampleSet = Field(description="Samples that show the concept.")
    fdr: Probability = Field(0.05, description="Largest Benjamini-Hochberg adjusted p.")
    words: Annotated[list[Text], Distinct] = Field(
        [], description="Words that name the concept; in the lexical filter the model is stopped at them."
    )
    compared: list[Literal["controls", "stages", "sensitivity"]] = Field(
        [],
        description="Targets whose comparisons are made for it too; for ablated concepts all of them are, "
        "and for every concept with `ablation: none`.",
    )

    @property
    def shown(self) -> list[str]:
        """The data sets whose activations are compared sample by sample; none where firings are counted."""
        return []

    @property
    def limits(self) -> dict[str, float]:
        """What every contrast asks for, by the name of the number: log10 of the largest adjusted p."""
        return {"log_p": log10(self.fdr) if self.fdr else -inf}

    def datasets(self) -> Iterator[tuple[str, str]]:
        """Yield the data sets that it names, each after its key."""
        for side, samples in self.sides.items():
            yield f"{side}.dataset", samples.dataset

    @model_validator(mode="before")
    @classmethod
    def groups_need_data(cls, values: Any) -> Any:
        """Without `data` nothing tells which data set the groups are of."""
        if isinstance(values, dict) and values.get("groups") is not None and "target" not in values:
            baseline = "`baseline` and " if values.get("contrast", COUNTS) == COUNTS else ""
            raise ValueError(
                f"groups: found without `data`, which tells whose groups they are; write {baseline}"
                "`target: {dataset: …, groups: …}`"
            )
        return values


class CountsConcept(Concept):
    """A concept by the paper's contrast: firings counted on samples that show it and on general ones."""

    contrast: Literal["counts"] = Field(COUNTS, description="How its features are found.")
    baseline: SampleSet = Field(description="General samples that it is held against.")
    unit: Literal["token", "sample"] = Field("token", description="What is counted for the selection.")
    min_odds_ratio: float = Field(3.0, gt=0, description="Smallest odds ratio.")
    min_frequency_difference: float = Field(
        0.005, ge=0, lt=1, description="Smallest difference of the firing frequencies."
    )
    lexical: bool = Field(
        True,
        description="Whether the lexical filter decides; `false` where target and baseline hold the same "
        "texts, so that no word can tell them apart.",
    )

    @property
    def sides(self) -> dict[str, SampleSet]:
        """The sets of samples that are held against each other, by their keys."""
        return {"target": self.target, "baseline": self.baseline}

    @property
    def smallest_effect(self) -> float:
        """The smallest effect of a selected feature: an odds ratio."""
        return self.min_odds_ratio

    @property
    def about(self) -> str:
        """What its features do, in words."""
        return f"fires more often on {self.target} than on {self.baseline}, counted by {self.unit}"

    @property
    def limits(self) -> dict[str, float]:
        """What the contrast asks for, by the name of the number."""
        return {"odds": self.min_odds_ratio, "difference": self.min_frequency_difference, **super().limits}


class LabelledConcept(Concept):
    """What concepts say that hold values of a label against each other."""

    label: Text = Field(
        "answer",
        description="Key of the samples whose values are held against each other; dots lead into what a key "
        "holds, numbers into lists (`scene.objects.0.row`).",
    )
    within: Text | None = Field(
        None,
        description="Key of the samples whose values are tested apart, such as the relation that a text "
        "states: a feature may fire on true statements of one and on false ones of the other.",
    )
    min_effect_size: float = Field(
        0.8,
        ge=0,
        le=100,
        description="Smallest difference within strata in units of Cohen's d; 0.8 is a large one.",
    )
    min_frequency: float = Field(
        0.02, ge=0, le=1, description="Smallest share of the compared samples on which a feature fires."
    )
    unit: Literal["sample"] = Field("sample", description="Samples are what is compared.")
    lexical: Literal[False] = Field(
        False, description="The lexical filter has nothing to decide: texts are the same."
    )

    @model_validator(mode="before")
    @classmethod
    def labels_take_the_place_of_a_baseline(cls, values: Any) -> Any:
        """Values of the label are held against each other, not two sets of samples."""
        if isinstance(values, Mapping) and values.get("baseline") is not None:
            raise ValueError(
                f"baseline: found with `contrast: {values.get('contrast')}`, which holds values of `label` "
                "against each other within `target`; leave it out"
            )
        return values

    @model_validator(mode="after")
    def keys_differ(self) -> LabelledConcept:
        """What is alike in a stratum cannot be told apart in it."""
        for option in ("strata", "within"):
            labels = [self.label] if isinstance(self.label, str) else self.label
            if (found := getattr(self, option, None)) in labels:
                raise ValueError(
                    f"{option}: found '{found}', which is `label` too: samples that agree in it cannot "
                    "be told apart by it; name another key"
                )
        return self

    @property
    def sides(self) -> dict[str, SampleSet]:
        """The set of samples within which it is sought, by its key."""
        return {"target": self.target}

    @property
    def smallest_effect(self) -> float:
        """The smallest effect of a selected feature, in units of Cohen's d."""
        return self.min_effect_size

    @property
    def limits(self) -> dict[str, float]:
        """What the contrast asks for, by the name of the number."""
        return {"effect": self.min_effect_size, "frequency": self.min_frequency, **super().limits}


class TextMatchedConcept(LabelledConcept):
    """A concept by what tells samples of the same text apart (docs/understand/contrast_text_matched.md)."""

    contrast: Literal["text_matched"] = Field(description="How its features are found.")
    label: OneOrSeveral = Field(
        "answer",
        description="Key of the samples whose values are held against each other, or several: a feature may "
        "tell any of them. Dots lead into what a key holds, numbers into lists (`scene.objects.0.row`).",
    )
    strata: Text = Field(
        "prompt",
        description="Key of the samples: those that agree in it are compared with each other only; `prompt` "
        "is the text.",
    )

    @property
    def about(self) -> str:
        """What its features do, in words."""
        labels = [self.label] if isinstance(self.label, str) else self.label
        return (
            f"tells values of {some(labels)} apart among samples of {self.target} with the same {self.strata}"
        )


class CounterfactualConcept(LabelledConcept):
    """A concept by what a change of the image turns (docs/understand/contrast_counterfactual.md)."""

    contrast: Literal["counterfactual"] = Field(description="How its features are found.")
    transformed: Name = Field(
        description="Data set of the target's samples with images that a change has turned: a subset with "
        "`transform`."
    )
    against: Name | None = Field(
        None,
        description="The same with a change that leaves the concept alone: what both do to a feature is not "
        "counted. Left out: the target's own images.",
    )

    def datasets(self) -> Iterator[tuple[str, str]]:
        """See `Concept.datasets`."""
        yield from super().datasets()
        yield "transformed", self.transformed
        if self.against is not None:
            yield "against", self.against

    @property
    def about(self) -> str:
        """What its features do, in words."""
        return f"changes as {self.label} does when {self.transformed} changes the images of {self.target}"

    @property
    def shown(self) -> list[str]:
        """The two data sets whose activations are compared, the one that leaves the concept alone first."""
        return [self.against or self.target.dataset, self.transformed]


def contrast_of(value: Any) -> str:
    """Return the contrast of a concept; the paper's if it names none."""
    if not isinstance(value, Mapping):
        return getattr(value, "contrast", COUNTS)
    return str(value.get("contrast", COUNTS))


def check_contrast(value: Any) -> Any:
    """Refuse a contrast that does not exist."""
    if (found := contrast_of(value)) not in CONTRASTS:
        raise ValueError(f"contrast: found '{writable(found)}', expected one of {', '.join(CONTRASTS)}")
    return value


ConceptConfig = Annotated[
    Annotated[CountsConcept, Tag(COUNTS)]
    | Annotated[TextMatchedConcept, Tag(TEXT_MATCHED)]
    | Annotated[CounterfactualConcept, Tag(COUNTERFACTUAL)],
    Discriminator(contrast_of),
    BeforeValidator(check_contrast),
]
