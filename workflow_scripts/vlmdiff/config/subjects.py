"""The models under study and the data sets shown to them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vlmdiff.config.base import Count, Section


class ModelConfig(Section):
    """One language model or vision-language model."""

    family: Literal["causal_lm", "llava"] = Field(description="How to load the model and find its parts.")
    path: str = Field(
        description="Folder of the checkpoint; `world:NAME` stands for a model of the built-in world."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Type of the weights in memory."
    )
    attention: Literal["sdpa", "eager"] = Field(
        "sdpa", description="Attention implementation of transformers."
    )


class FolderDataset(Section):
    """A folder of images with a samples.jsonl; docs/formats.md describes its keys."""

    path: str = Field(description="Folder that holds samples.jsonl and the images that it names.")
    samples: Count = Field(description="How many samples to use, from the first on.")


class ExtractionConfig(Section):
    """How residual streams are captured and stored."""

    shard_samples: Count = Field(2000, description="Samples in one shard file, and so in one extraction job.")
    batch_tokens: Count = Field(8192, description="Tokens in one forward pass, padding included.")
    storage: Literal["float16", "bfloat16"] = Field(
        "float16", description="16-bit type of the stored values."
    )
