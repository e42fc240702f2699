"""Dictionaries: their architecture and the stages that they go through."""

from __future__ import annotations

from collections.abc import Iterable
from string import Formatter
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PositiveFloat, Tag, model_validator

from vlmdiff.config.base import Count, DatasetName, Distinct, Name, Section, TokenType
from vlmdiff.config.budgets import Budget
from vlmdiff.config.releases import RELEASE_PATH
from vlmdiff.config.sources import DictionarySource


class DictionaryStage(Budget):
    """One stage of a dictionary: where it starts, what it sees, how long it trains."""

    initial: str = Field("random", description="`random`, or the dictionary whose weights it starts from.")
    model: Name = Field(description="The model whose residual stream it reconstructs.")
    base_model: Name | None = Field(
        None,
        description="Makes it a crosscoder: the model before tuning, whose residual stream of the same text "
        "tokens it reconstructs together with that of `model` (docs/understand/diff_features.md).",
    )
    dataset: DatasetName = Field(description="The data set that the model is shown, or groups of one.")
    tokens: Annotated[list[TokenType], Distinct] = Field(
        ["text"], min_length=1, description="Token types that the loss sees."
    )
    snapshots: list[Annotated[int, Field(ge=1, le=100)]] = Field(
        [], description="Percentages of training after which a copy is kept, next to the final one."
    )
    precision: Literal["tf32", "bf16", "fp32"] = Field(
        "tf32",
        description="Of products on a GPU while it trains. `bf16`: features are looked for in bfloat16 and "
        "chosen in float32. A CPU always takes float32.",
    )
    devices: Count = Field(
        1, description="Devices of one node that train it together, each on its share of a step's tokens."
    )
    nodes: Count = Field(1, description="Nodes of a Slurm cluster that train it together.")

    @property
    def processes(self) -> int:
        """How many processes train it together."""
        return self.devices * self.nodes

    @model_validator(mode="after")
    def shares_are_equal(self) -> DictionaryStage:
        """Refuse steps whose tokens cannot be shared out."""
        if self.batch_tokens % self.processes:
            raise ValueError(
                f"batch_tokens: found {self.batch_tokens}, expected a multiple of devices * nodes = "
                f"{self.processes}"
            )
        return self

    @model_validator(mode="after")
    def snapshots_rise(self) -> DictionaryStage:
        """Refuse snapshots that are doubled or out of order."""
        if sorted(set(self.snapshots)) != self.snapshots:
            raise ValueError(f"snapshots must rise, e.g. [25, 50, 75]; found {self.snapshots}")
        return self


# What no file tells, and the formats of which that is so.
UNTOLD = MappingProxyType({"k": ("mmdiff", "qwen_scope"), "subtract_decoder_bias": ("mmdiff",)})


class PublishedDictionary(Section):
    """A dictionary that others trained, in place of a training (docs/configure/import_dictionary.md)."""

    source: DictionarySource = Field(
        description="Local folder, `hub:OWNER/NAME@REVISION`, or `saelens:RELEASE@REVISION`, which is looked "
        "up in the list of the installed sae-lens."
    )
    format: Literal[
        "llama_scope",
        "gemma_scope",
        "gemma_scope_2",
        "qwen_scope",
        "mmdiff",
        "saelens",
        "vlmdiff",
        "sparsify",
        "openmoss",
        "dictionary_learning",
        "crosscoder",
    ] = Field(description="Layout in which it was published; of a release left out.")
    base_model: Name | None = Field(
        None,
        description="Crosscoder: the model before tuning, whose residual stream it reads before that of the "
        "tuned one.",
    )
    file: str = Field(
        description="Path of one layer's folder or file in the source (its id in a release); `{layer}` "
        "stands for the layer and `{NAME}` for a value of `by_layer`."
    )
    by_layer: dict[Name, dict[int, str | int]] = Field(
        {}, description="Parts of `file` that differ from layer to layer: for each name a value a layer."
    )
    k: Count | None = Field(
        None, description="TopK of MMDiff and Qwen Scope: active features a token, not in their files."
    )
    subtract_decoder_bias: bool | None = Field(
        None, description="MMDiff: subtract b_dec from the encoder's input, not in its files; None is no."
    )
    input_scale: PositiveFloat | dict[int, PositiveFloat] | None = Field(
        None,
        description="Factor on the residual stream before the encoder, for all layers or by layer, where "
        "the files do not tell it.",
    )
    initial: str = Field(
        "random", description="The dictionary whose feature indices it keeps; `random` if none."
    )
    budget: Budget | None = Field(
        None,
        description="How its authors trained it; needed where it is compared with dictionaries trained here.",
    )
    scale_on: Name | None = Field(
        None,
        description="Trained dictionary on whose tokens the input scale of all trainings that start from "
        "this one is estimated, once; left out: the first one that starts from it, if no file tells a scale.",
    )

    @property
    def tells_scale(self) -> bool:
        """Whether its files or its entry tell the scale of residuals."""
        return self.format in ("llama_scope", "vlmdiff") or self.input_scale is not None

    @model_validator(mode="after")
    def files_are_named(self) -> PublishedDictionary:
        """Refuse a `file` with unknown names, and values of `by_layer` that it does not use."""
        try:
            names = {name for _, name, _, _ in Formatter().parse(self.file) if name is not None}
        except ValueError as error:
            raise ValueError(f"file: '{self.file}' has braces without a name ({error})") from error
        if "layer" in self.by_layer:
            raise ValueError("by_layer: `layer` stands for the layer itself; choose another name")
        known = {"layer", *self.by_layer}
        if not names <= known:
            raise ValueError(
                f"file: unknown {sorted(names - known)} in '{self.file}'; known are {sorted(known)}"
            )
        try:
            places = [self.file.format(layer=0, **dict.fromkeys(self.by_layer, 0))]
        except (ValueError, KeyError, IndexError) as error:
            raise ValueError(f"file: '{self.file}' cannot be filled in ({error})") from error
        places += [str(value) for values in self.by_layer.values() for value in values.values()]
        if any(place.startswith("/") or ".." in place.split("/") for place in places):
            raise ValueError(
                f"file: expected a path within the source, found '{self.file}' with {places[1:3]}"
            )
        if unused := sorted(set(self.by_layer) - names):
            raise ValueError(f"by_layer: {unused} are not used by file '{self.file}'")
        return self

    @model_validator(mode="after")
    def options_fit(self) -> PublishedDictionary:
        """Refuse what the format's own files tell."""
        for name, formats in UNTOLD.items():
            if getattr(self, name) is not None and self.format not in formats:
                raise ValueError(
                    f"{name}: only for format {' or '.join(formats)}; the files of '{self.format}' tell it"
                )
        if self.k is None and self.format == "qwen_scope":
            raise ValueError(
                "k: missing; no file of Qwen Scope tells it, the name of its repository does (…-L0_50: 50)"
            )
        if (self.base_model is None) == (self.format == "crosscoder"):
            raise ValueError(
                f"base_model: found {self.base_model!r} with format {self.format}, expected the model before "
                "tuning with format crosscoder, and none with others"
            )
        shape = self.budget.architecture if self.budget else None
        if self.k is not None and shape is not None and (shape.kind, shape.k) != ("topk", self.k):
            raise ValueError(
                f"budget.architecture: found {shape.kind} with k {shape.k}, but it is topk with k {self.k}"
            )
        return self

    def check_layers(self, layers: Iterable[int]) -> None:
        """Check that every layer has a file of its own.

        Raises:
            ValueError: a layer is missing in a mapping, or shares its file with another.
        """
        layers = list(layers)
        mappings = {f"by_layer.{name}": values for name, values in self.by_layer.items()}
        if isinstance(self.input_scale, dict):
            mappings["input_scale"] = self.input_scale
        for key, values in mappings.items():
            if key == f"by_layer.{RELEASE_PATH}":
                key = "file: the release does not have it at all layers"
            if missing := [layer for layer in layers if layer not in values]:
                raise ValueError(f"{key}: no value for layers {missing}")
        if len({self.path(layer) for layer in layers}) < len(layers):
            raise ValueError(f"file: '{self.file}' is the same for several layers; name {{layer}} in it")

    def path(self, layer: int) -> str:
        """Return the path of a layer's folder or file in the source."""
        parts = {name: values[layer] for name, values in self.by_layer.items()}
        return self.file.format(layer=layer, **parts)

    def options(self, layer: int) -> dict[str, Any]:
        """Return what a layer's files do not tell."""
        scale = self.input_scale
        return {
            "k": self.k,
            "subtract_decoder_bias": self.subtract_decoder_bias,
            "input_scale": scale[layer] if isinstance(scale, dict) else scale,
        }

    @property
    def snapshots(self) -> list[int]:
        """Published dictionaries come without copies from their training."""
        return []


def stage_kind(value: Any) -> str:
    """Tell a published dictionary, which has a `source`, from one that is trained."""
    published = "source" in value if isinstance(value, dict) else isinstance(value, PublishedDictionary)
    return "published" if published else "trained"


Stage = Annotated[
    Annotated[DictionaryStage, Tag("trained")] | Annotated[PublishedDictionary, Tag("published")],
    Discriminator(stage_kind),
]


class EvaluationSet(Section):
    """Held-out activations that dictionaries are scored on."""

    dictionaries: Annotated[list[Name], Distinct] = Field(
        min_length=1, description="Dictionaries that are scored."
    )
    model: Name = Field(description="Model that makes the activations.")
    dataset: DatasetName = Field(description="Data set that it is shown, or groups of one.")
    seeds: Count | None = Field(None, description="How many seeds are scored; left out: all.")
    tokens: Annotated[list[TokenType], Distinct] = Field(
        ["text", "image"], min_length=1, description="Token types that are scored, where there are any."
    )
