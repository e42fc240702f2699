"""A byte-level BPE that can write any English text, with the special tokens of a published family."""

from __future__ import annotations

from collections.abc import Sequence

SENTENCES = (
    "Is the following statement correct? Answer only with 'Yes' or 'No'.",
    "The cat is at the left side of the car. The bench is at the right side of the train.",
    "What colour is the umbrella? How many people are in the picture? Where is the dog?",
    "Describe this image. You are a helpful language and vision assistant.",
    "Yes No yes no Yes No yes no Yes No yes no Yes No yes no",
)


def byte_tokenizer(
    special: Sequence[str],
    *,
    bos: str | None = None,
    eos: str | None = None,
    pad: str | None = None,
    adds_bos: bool = False,
    chat_template: str | None = None,
):
    """Train the tokenizer; special tokens come first in the vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    others = [token for token in special if token not in (bos, eos, pad)]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        additional_special_tokens=others,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = chat_template
    return tokenizer
