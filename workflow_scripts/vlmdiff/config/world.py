"""The `world:` section of the configuration: the built-in world and the models trained in it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from vlmdiff.config.base import Name, Section
from vlmdiff.config.families import Family
from vlmdiff.config.real_model import RealModel

# The tuned model and its snapshots, by per cent of fine-tuning done.
SNAPSHOTS = MappingProxyType({25: "vlm_25", 50: "vlm_50", 75: "vlm_75", 100: "vlm"})
VLM = SNAPSHOTS[100]
SceneSplit = Literal["train", "validation", "test"]
TrainingStage = Literal["language_model", "vision", "tuning"]
ControlKind = Literal["continued_text", "shuffled_images", "no_spatial"]
Language = Literal["words", "english"]
DatasetKind = Literal["text", "general", "spatial", "spatial_open", "mixed"]
Grouping = Literal["kind", "answer"]


def family_of_checkpoint(name: str, controls: Mapping[str, str]) -> Family:
    """Return the family of a model of the world.

    Args:
        name: its name, as in `world:NAME`.
        controls: kinds of the control models, by name.
    """
    reads = name == "base_lm" or controls.get(name) == "continued_text"
    return "causal_lm" if reads else "llava"


def adapter_of(name: str) -> tuple[str, int] | None:
    """Return which adapter makes a model of the world out of a real language model; None for that itself.

    Args:
        name: of the model, as in `world:NAME`.

    Returns:
        The name of what was tuned, and per cent of its tuning done.
    """
    if name == "base_lm":
        return None
    done = {one: percent for percent, one in SNAPSHOTS.items()}
    return (VLM, done[name]) if name in done else (name, 100)


# Groups of each kind of data set, and the kinds whose questions have choices; `mixed` holds some of all.
GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "text": ("text",),
        "general": ("shape", "colour", "size", "existence", "count"),
        "spatial": ("left of", "right of", "above", "below"),
        "spatial_open": ("horizontal relation", "vertical relation", "row", "column"),
    }
)
CLOSED = ("general", "spatial", "spatial_open")
ANSWERS = ("true", "false")


class SceneCounts(Section):
    """How many different scenes each split holds; no scene is in two splits."""

    train: int = Field(12_000, ge=50, le=30_000, description="Scenes to train on.")
    validation: int = Field(2_000, ge=50, le=10_000, description="Scenes to select on.")
    test: int = Field(2_000, ge=50, le=10_000, description="Scenes to report on.")


class LanguageModelTraining(Section):
    """Architecture and text training of the base language model (Llama)."""

    d_model: int = Field(128, ge=8, le=1024, description="Residual width.")
    blocks: int = Field(4, ge=1, le=32, description="Number of decoder blocks.")
    heads: int = Field(4, ge=1, le=32, description="Attention heads per block.")
    d_mlp: int = Field(352, ge=8, le=8192, description="Width of the MLP's hidden layer.")
    initial_scale: float = Field(0.06, gt=0, le=1, description="Standard deviation of the initial weights.")
    matching_blocks: int = Field(
        2, ge=0, le=32, description="First blocks whose attention starts as a look-up of equal content."
    )
    steps: int = Field(250, ge=1, le=100_000, description="Optimiser steps on text.")
    batch_size: int = Field(32, ge=1, le=4096, description="Documents per step.")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="AdamW learning rate.")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "LanguageModelTraining":
        if self.d_model % (2 * self.heads):
            raise ValueError(
                f"d_model is {self.d_model} and heads is {self.heads}; rotary embeddings need "
                "d_model / heads to be a whole even number: change one of the two"
            )
        return self


class VisionTraining(Section):
    """The CLIP vision tower, its pre-training on patch attributes, and the projector."""

    d_vision: int = Field(64, ge=8, le=1024, description="Width of the vision tower.")
    blocks: int = Field(2, ge=1, le=24, description="Number of encoder blocks.")
    heads: int = Field(4, ge=1, le=16, description="Attention heads per encoder block.")
    d_mlp: int = Field(128, ge=8, le=4096, description="Width of the encoder's MLPs.")
    steps: int = Field(300, ge=1, le=100_000, description="Pre-training steps of the tower.")
    batch_size: int = Field(128, ge=1, le=4096, description="Images per pre-training step.")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Learning rate of the tower.")
    projector_steps: int = Field(600, ge=1, le=100_000, description="Steps of the regression.")
    projector_learning_rate: float = Field(
        3e-3, gt=0, le=1, description="Learning rate of the projector's regression."
    )
    position_weight: float = Field(
        2.0, ge=0, le=10, description="Weight of row and column in the projector's target."
    )

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "VisionTraining":
        if self.d_vision % self.heads:
            raise ValueError(
                f"d_vision is {self.d_vision}, which {self.heads} heads do not divide: change one"
            )
        return self


class Tuning(Section):
    """Instruction tuning of the whole language model with images, by a gated curriculum."""

    learning_rate: float = Field(2e-3, gt=0, le=1, description="AdamW peak learning rate.")
    weight_decay: float = Field(0.01, ge=0, le=1, description="AdamW weight decay.")
    batch_size: int = Field(128, ge=1, le=4096, description="Questions per step.")
    warmup_steps: int = Field(50, ge=0, le=10_000, description="Steps of linear warm-up.")
    max_steps: int = Field(1_500, ge=4, le=100_000, description="Bound on all steps.")
    check_every: int = Field(
        50, ge=1, le=10_000, description="Steps between validations, gates and checkpoints."
    )
    validation_samples: int = Field(
        256, ge=8, le=2_000, description="Validation questions of each kind at a gate."
    )
    gate: float = Field(0.93, ge=0, le=1, description="Validation accuracy that opens the next phase.")
    finish: float = Field(
        0.98, ge=0, le=1, description="Validation accuracy on every kind that starts the decay."
    )
    decay_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of all steps over which the learning rate decays."
    )
    binding_weight: float = Field(
        0.5, ge=0, le=10, description="Loss weight of a shape word that follows a colour word."
    )
    naming_weight: float = Field(
        0.5, ge=0, le=10, description="Weight of the loss by which a name tells its object's attributes."
    )
    answer_weight: float = Field(
        5.0, ge=0, le=100, description="Loss weight of the one word that answers a closed question."
    )
    skew: float = Field(
        0.8, ge=0, le=1, description="Probability of drawing only `left of` and `above` at first."
    )
    skew_steps: int = Field(
        250, ge=1, le=10_000, description="Steps over which that skew fades in the last phase."
    )
    patience: int = Field(
        800, ge=1, le=100_000, description="Steps after which a closed first gate means failure."
    )
    attempts: int = Field(2, ge=1, le=10, description="Seeds to try before giving up.")


class WorldDataset(Section):
    """One data set that is written for the analysis."""

    kind: DatasetKind = Field(description="What the samples are.")
    scenes: SceneSplit = Field(description="Split from which the scenes are drawn.")
    samples: int = Field(ge=1, le=100_000, description="Number of samples.")
    seed: int = Field(0, ge=0, description="Tells apart data sets of one kind and split.")
    group_by: Grouping = Field(
        "kind", description="A sample's group: its relation or kind of question, or its right answer."
    )

    @model_validator(mode="after")
    def _statements_can_be_balanced(self) -> "WorldDataset":
        if self.kind == "spatial" and self.samples % 8:
            raise ValueError(
                f"samples is {self.samples}; a spatial data set balances 4 relations and 2 truths, "
                "so samples must be a multiple of 8"
            )
        return self

    def is_test_data(self) -> bool:
        """Tell whether samples ask about scenes that no model has seen."""
        return self.scenes == "test" and self.kind != "text"


def _default_controls() -> dict[str, ControlKind]:
    return {
        "lm_continued": "continued_text",
        "vlm_shuffled": "shuffled_images",
        "vlm_no_spatial": "no_spatial",
    }


def _default_datasets() -> dict[str, WorldDataset]:
    rows: list[tuple[str, DatasetKind, SceneSplit, int, int]] = [
        ("text_train", "text", "train", 4_000, 0),
        ("text_null", "text", "train", 4_000, 1),
        ("text_null_check", "text", "train", 4_000, 2),
        ("text_val", "text", "validation", 800, 0),
        ("vqa_train", "mixed", "train", 6_000, 0),
        ("general_val", "general", "validation", 1_200, 0),
        ("spatial_val", "spatial", "validation", 1_200, 0),
        ("general_test", "general", "test", 1_200, 0),
        ("spatial_test", "spatial", "test", 1_200, 0),
        ("spatial_open_test", "spatial_open", "test", 600, 0),
    ]
    found = {
        name: WorldDataset(kind=kind, scenes=scenes, samples=samples, seed=seed)
        for name, kind, scenes, samples, seed in rows
    }
    # The statements of spatial_val, true ones against false ones.
    return found | {"truth_val": found["spatial_val"].model_copy(update={"group_by": "answer"})}


def groups_of(entry: WorldDataset) -> tuple[str, ...] | None:
    """Return the groups of a data set of the world; None if only its samples tell them."""
    if entry.group_by == "kind" or entry.kind == "text":
        return GROUPS.get(entry.kind)
    return ANSWERS if entry.kind == "spatial" else None


class WorldConfig(Section):
    """The built-in world: its scenes, its models, and the data sets written from it."""

    models: Literal["shipped", "train"] = Field(
        "shipped", description="Use the shipped checkpoints, or train them from nothing."
    )
    seed: int = Field(0, ge=0, description="Seed of scenes, weights and the order of samples.")
    weights_dtype: Literal["float16", "float32"] = Field(
        "float16", description="Number format of the saved checkpoints."
    )
    scenes: SceneCounts = Field(SceneCounts(), description="Sizes of the scene splits.")
    language_model: LanguageModelTraining = Field(
        LanguageModelTraining(), description="The base language model."
    )
    vision: VisionTraining = Field(VisionTraining(), description="Vision tower and projector.")
    tuning: Tuning = Field(Tuning(), description="Visual instruction tuning.")
    real_model: RealModel | None = Field(
        None, description="A language model from elsewhere that is taught to see this world, in English."
    )
    controls: dict[Name, ControlKind] = Field(
        default_factory=_default_controls,
        description="Control models that are trained where an experiment names them as `world:NAME`: the "
        "base LM on more text, the VLM with shuffled images, the VLM without any spatial question.",
    )
    datasets: dict[Name, WorldDataset] = Field(
        default_factory=_default_datasets, description="Data sets to write, by name."
    )

    @property
    def language(self) -> Language:
        """In which language its samples are: a real language model is asked in English."""
        return "english" if self.real_model else "words"

    def stage_settings(self, stage: TrainingStage) -> dict[str, Any]:
        """Return the plain values on which one training stage depends, beside its input files."""
        scenes = scenes_up_to("validation" if stage == "tuning" else "train")
        include = {"seed": True, "weights_dtype": True, "scenes": scenes, stage: True}
        return self.model_dump(mode="json", include=include)

    def control_settings(self, control: str) -> dict[str, Any]:
        """Return the plain values on which the training of a control model depends."""
        if self.controls[control] != "continued_text":
            return self.stage_settings("tuning")
        # It only reads on, as the language model did; its log has a row where the real one may have one.
        read_on = {"language_model": {"learning_rate", "batch_size"}, "tuning": {"check_every"}}
        include = {"seed": True, "weights_dtype": True, "scenes": {"train"}, **read_on}
        return self.model_dump(mode="json", include=include)

    def real_settings(self) -> dict[str, Any]:
        """Return the plain values on which a real language model's tuning depends, beside its input files."""
        include = {"seed": True, "scenes": scenes_up_to("validation"), "real_model": True}
        return self.model_dump(mode="json", include=include)

    def frame_settings(self) -> dict[str, Any]:
        """Return the plain values on which a real language model's frame depends, beside its input files."""
        vision = {"batch_size", "projector_steps", "projector_learning_rate", "position_weight"}
        include = {"seed": True, "scenes": {"train"}, "vision": vision}
        return self.model_dump(mode="json", include=include)

    def dataset_settings(self, dataset: str) -> dict[str, Any]:
        """Return the plain values on which one data set depends."""
        entry = self.datasets[dataset]
        # That there is a real model tells the language.
        include = {"seed": True, "scenes": scenes_up_to(entry.scenes), "real_model": {"base"}}
        settings = self.model_dump(mode="json", include=include, exclude_none=True)
        return settings | {"datasets": {dataset: entry.params()}}


def scenes_up_to(split: SceneSplit) -> set[str]:
    """Return a split and those drawn before it: how many scenes these have tells which ones it has."""
    splits = get_args(SceneSplit)
    return set(splits[: splits.index(split) + 1])
