"""Tokens of a prompt never depend on its neighbours; a sequence begins once and ends with the text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_gemma3
import tiny_internvl
import tiny_llava_next
import tiny_llava_original
import tiny_models
import tiny_paligemma
import tiny_pixtral
import tiny_qwen_vl
import tiny_smolvlm
import torch
from damage import tries
from hypothesis import given
from hypothesis import strategies as st

from vlmdiff.activations.tokens import BOS, IMAGE, PADDING, TEXT
from vlmdiff.models.batch import make_batch
from vlmdiff.models.errors import PromptError, SubjectError
from vlmdiff.models.registry import load_subject

# What tempts a tokenizer: control tokens of all families, blanks, signs of several bytes.
PIECES = [
    *("<bos>", "<s>", "</s>", "<eos>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>"),
    *("[INST]", "[IMG_BREAK]", "[IMG_END]"),
    *("<pad>", "<img>", "<|vision_start|>", "<|endoftext|>", "<loc0001>"),
    *(" ", "\n", "  ", "\t", "the red circle", "Where", "is", "?", "'s", "é", "猫", "🐈", "\u200b", "▁"),
]
TEXTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join)


def tower(folder: Path) -> dict:
    return {"vision_tower": str(tiny_llava_original.build_tower(folder / "tower"))}


def internvl(folder: Path) -> Path:
    return tiny_internvl.build(folder)


BUILDERS = {
    "causal_lm": tiny_llava_original.build_lm,
    "llava": tiny_models.build_tiny_vlm,
    "llava_next": tiny_llava_next.build,
    "llava_original": tiny_llava_original.build,
    "paligemma": tiny_paligemma.build,
    "pixtral": tiny_pixtral.build,
    "qwen_vl": tiny_qwen_vl.build,
    "internvl": tiny_internvl.build,
    "idefics3": tiny_smolvlm.build,
    "gemma3": tiny_gemma3.build,
}


@pytest.fixture(scope="module")
def subjects(tmp_path_factory) -> dict:
    """One subject a family, each with its own kind of tokenizer."""
    found = {}
    for family, build in BUILDERS.items():
        root = tmp_path_factory.mktemp(family)
        spec = {"family": family, "attention": "eager"}
        spec |= tower(root) if family == "llava_original" else {}
        found[family] = load_subject(family, spec, build(root / "model"), "cpu")
    return found


def rows_or_refusals(subject, prompts, sizes, as_chat) -> list:
    """Return the tokens of each prompt alone, or the number of tokens that its refusal names."""
    found = []
    for prompt, size in zip(prompts, sizes, strict=True):
        try:
            found += subject.rows([prompt], [size], as_chat)
        except PromptError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("family", BUILDERS)
@tries(25)
@given(data=st.data())
def test_tokens_do_not_depend_on_neighbours(subjects, family, data):
    subject = subjects[family]
    prompts = data.draw(st.lists(TEXTS, min_size=1, max_size=4))
    sees = family != "causal_lm"
    sizes = [data.draw(st.sampled_from([None, (56, 84)])) if sees else None for _ in prompts]
    as_chat = data.draw(st.booleans())
    alone = rows_or_refusals(subject, prompts, sizes, as_chat)
    refused = [index for index, one in enumerate(alone) if isinstance(one, str)]
    if refused:
        with pytest.raises(PromptError) as caught:
            subject.rows(prompts, sizes, as_chat)
        assert caught.value.index == refused[0]
    else:
        assert subject.rows(prompts, sizes, as_chat) == alone
    for row in (one for one in alone if not isinstance(one, str)):
        check_begins_once_and_has_no_end(subject, row, as_chat)


def check_begins_once_and_has_no_end(subject, row, as_chat) -> None:
    """One BOS where the tokenizer has one; nothing behind the text but what the format writes."""
    bos, eos = subject.tokenizer.bos_token_id, subject.tokenizer.eos_token_id
    # SmolVLM's stands in the chat template alone.
    if bos is not None and (as_chat or subject.name != "idefics3"):
        assert row.count(bos) == 1
        assert bos == next(token for token in row if token != getattr(subject, "image_id", None))
    assert row[-1] != eos


def test_a_document_with_its_own_bos_has_one(tiny_lm_path):
    subject = load_subject("lm", {"family": "causal_lm"}, tiny_lm_path)
    vocabulary = subject.tokenizer.get_vocab()
    words = [vocabulary[word] for word in ("<bos>", "the", "red", "circle")]
    documents = ["<bos> the red circle", "the red circle"]
    for prompts in (documents, documents[::-1], documents[:1], documents[1:]):
        assert subject.rows(prompts, [None] * len(prompts), as_chat=False) == [words] * len(prompts)


def test_a_control_token_that_the_tokenizer_cannot_spell_is_refused(tiny_lm_path):
    subject = load_subject("lm", {"family": "causal_lm"}, tiny_lm_path)
    for prompt in ("the <eos> circle", "the circle <bos>"):
        with pytest.raises(PromptError, match="take the control token out of the prompt"):
            subject.rows(["red", prompt], [None] * 2)


def changed(folder: Path, copy: Path, change) -> Path:
    """Copy a checkpoint and change its tokenizer.json."""
    shutil.copytree(folder, copy)
    values = json.loads((copy / "tokenizer.json").read_text())
    change(values)
    (copy / "tokenizer.json").write_text(json.dumps(values))
    return copy


def template_processor(*pieces: str, ids: dict[str, int]) -> dict:
    """Return a post-processor that writes special tokens around a text."""
    single = [
        {"Sequence": {"id": "A", "type_id": 0}}
        if piece == "$A"
        else {"SpecialToken": {"id": piece, "type_id": 0}}
        for piece in pieces
    ]
    special = {token: {"id": token, "ids": [index], "tokens": [token]} for token, index in ids.items()}
    return {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special}


IDS = {"<|begin_of_text|>": 0, "<|eot_id|>": 4}
PROCESSORS = {
    "bos": ("<|begin_of_text|>", "$A"),
    "bos and eos": ("<|begin_of_text|>", "$A", "<|eot_id|>"),
    "eos": ("$A", "<|eot_id|>"),
    "none": ("$A",),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return tiny_llava_original.build_lm(tmp_path_factory.mktemp("llama") / "lm")


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_tokenizer_decides_what_begins_a_document_and_nothing_ends_it(llama, tmp_path, name):
    """With and without BOS and EOS of a post-processor, as Llama 2 and T5 configurations have them."""

    def change(values: dict) -> None:
        values["post_processor"] = template_processor(*PROCESSORS[name], ids=IDS)

    subject = load_subject("lm", {"family": "causal_lm"}, changed(llama, tmp_path / "lm", change))
    text = "Where is the dog?"
    plain = subject.tokenizer(text, add_special_tokens=False)["input_ids"]
    first = [0] if "bos" in name else []
    assert subject.rows([text], [None], as_chat=False) == [first + plain]
    # Where the tokenizer puts nothing first, a document may bring its own.
    assert subject.rows([f"<|begin_of_text|>{text}"], [None], as_chat=False) == [[0, *plain]]
    chat = subject.rows([text], [None])[0]
    assert chat == subject.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
    )
    assert chat.count(0) == 1


def test_padding_and_cutting_of_a_tokenizer_file_are_for_others(llama, tmp_path):
    def change(values: dict) -> None:
        values["truncation"] = {
            "direction": "Right",
            "max_length": 6,
            "strategy": "LongestFirst",
            "stride": 0,
        }
        values["padding"] = {
            "strategy": {"Fixed": 9},
            "direction": "Left",
            "pad_to_multiple_of": None,
            "pad_id": 1,
            "pad_type_id": 0,
            "pad_token": "<|end_of_text|>",
        }

    subject = load_subject("lm", {"family": "causal_lm"}, changed(llama, tmp_path / "lm", change))
    expected = load_subject("lm", {"family": "causal_lm"}, llama)
    prompts = ["Where?", "Where is the dog? What colour is the umbrella?"]
    for as_chat in (True, False):
        sizes = [None, None]
        assert subject.rows(prompts, sizes, as_chat) == expected.rows(prompts, sizes, as_chat)


@pytest.mark.parametrize("as_chat", [True, False])
@pytest.mark.parametrize("mark", ["<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>"])
def test_a_control_token_in_a_prompt_is_text(llama, as_chat, mark):
    """What a user wrote ends no turn: its signs are tokens of their own."""
    subject = load_subject("lm", {"family": "causal_lm"}, llama)
    clean, row = subject.rows(
        ["The sign says stop here.", f"The sign says {mark} here."], [None] * 2, as_chat
    )
    special = set(range(5))
    assert [token for token in row if token in special] == [token for token in clean if token in special]
    assert f"The sign says {mark} here." in subject.tokenizer.decode(row)


def test_an_empty_document_is_refused(llama):
    subject = load_subject("lm", {"family": "causal_lm"}, llama)
    with pytest.raises(PromptError, match="found no tokens in the prompt, expected at least one") as caught:
        subject.rows(["Where?", "<|begin_of_text|>"], [None] * 2, as_chat=False)
    assert caught.value.index == 1


def test_a_prompt_longer_than_the_context_is_refused(llama):
    subject = load_subject("lm", {"family": "causal_lm"}, llama)
    fits = [[0, *[5] * 1023]]
    subject.context = len(fits[0])
    text = "?" * 1023
    assert len(subject.rows([text], [None], as_chat=False)[0]) == 1024
    with pytest.raises(SubjectError, match="found 1025 tokens, expected at most 1024, its context"):
        subject.rows([text + "?"], [None], as_chat=False)


def test_a_prompt_that_would_turn_its_neighbours_is_refused(tmp_path):
    """LongRoPE (Phi 3 and 4) chooses the angles of a whole batch by its longest sequence."""
    from transformers import Phi3Config, Phi3ForCausalLM

    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    values = tiny_models.tiny_text_config(tiny_models.tiny_tokenizer()).to_dict()
    sizes = {key: values[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "pad_token_id")}
    config = Phi3Config(
        **sizes, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.2,
        max_position_embeddings=64, original_max_position_embeddings=16, rope_parameters=rope,
    )  # fmt: skip
    Phi3ForCausalLM(config).save_pretrained(tmp_path)
    tiny_models.tiny_tokenizer().save_pretrained(tmp_path)
    subject = load_subject("lm", {"family": "causal_lm"}, tmp_path, "cpu")
    short, fits, long = ([1, *[9, 20, 30] * some] for some in (2, 5, 6))
    alone, beside, turned = (
        subject.final_logits(subject.assemble(rows, [None] * len(rows)))[0]
        for rows in ([short], [short, fits], [short, long])
    )
    torch.testing.assert_close(beside, alone, atol=1e-4, rtol=1e-4)
    assert (turned - alone).abs().max() > 0.01
    subject.prompts.check(0, fits, subject.context, document=True)
    with pytest.raises(PromptError, match="found 19 tokens, expected at most 16, its context .* longrope"):
        subject.prompts.check(0, long, subject.context, document=True)


def test_only_the_first_bos_of_a_sequence_is_bos():
    """Documents packed into one, and turns of a chat whose mark is BOS, hold more of them: they are text."""
    batch = make_batch([[1, 5, 1, 6, 1], [4, 4, 1, 5]], pad_id=1, bos_id=1, image_id=4)
    assert batch.token_type.tolist() == [
        [BOS, TEXT, TEXT, TEXT, TEXT],
        [IMAGE, IMAGE, BOS, TEXT, PADDING],
    ]
