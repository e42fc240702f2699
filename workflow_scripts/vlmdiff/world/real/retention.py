"""Keeps the language that a model knew while it learns to see.

Learning without forgetting (arXiv 1606.09282): on plain text, the tuned model is held to what the model said
before. Nothing new is learnt from these texts, as would be by going on to train on them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from vlmdiff.world.seeds import random_stream

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

# Tokens of a paragraph that are read.
TOKENS = 64


class Retention:
    """How far a tuned language model's next words on plain text are from those before tuning."""

    def __init__(self, texts: list[str], tokenizer: PreTrainedTokenizerBase, seed: int, count: int):
        """Keep the texts.

        Args:
            texts: paragraphs.
            tokenizer: of the language model.
            seed: of the world; every tuning reads the same paragraphs at the same step.
            count: paragraphs a step.
        """
        self.texts, self.tokenizer, self.seed, self.count = texts, tokenizer, seed, count

    def loss(self, adapted: PeftModel, head: nn.Module, step: int) -> Tensor:
        """Return KL(before || tuned) of the next token in nats, the mean over tokens of a step's paragraphs.

        Args:
            adapted: decoder with its adapter; without it, the decoder as it was.
            head: from its states to logits.
            step: decides which paragraphs are read.
        """
        chosen = random_stream(self.seed, "real", "retention", step).sample(self.texts, self.count)
        encoded = self.tokenizer(
            chosen,
            return_tensors="pt",
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=TOKENS,
        )
        # Texts are padded on their right, where no token of theirs looks.
        counted = encoded.attention_mask.bool()

        def scores() -> Tensor:
            states = adapted(input_ids=encoded.input_ids, use_cache=False).last_hidden_state
            return head(states[counted]).float().log_softmax(-1)

        with torch.no_grad(), adapted.disable_adapter():
            before = scores()
        return kl_div(scores(), before, reduction="batchmean", log_target=True)


def read_texts(file: Path) -> list[str]:
    """Read the paragraphs of a JSONL file whose lines have a `text`."""
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]
