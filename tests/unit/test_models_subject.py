from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from vlmdiff.activations.tokens import BOS, IMAGE, PADDING, TEXT
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.hooks import edit_input, edit_output, hooks
from vlmdiff.models.registry import load_subject
from vlmdiff.models.subject import Subject

PROMPTS = [
    "what colour is the circle ?",
    "the red circle is left of the blue square ?",
    "describe this image .",
]
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def vlm(tiny_vlm_path: Path) -> Subject:
    return load_subject("vlm", {"family": "llava"}, tiny_vlm_path)


@pytest.fixture(scope="module")
def lm(tiny_lm_path: Path) -> Subject:
    return load_subject("lm", {"family": "causal_lm"}, tiny_lm_path)


@pytest.fixture(scope="module")
def images(tiny_dataset: Path) -> list[Image.Image]:
    return [Image.open(tiny_dataset / f"images/image_000{i}.png").convert("RGB") for i in range(3)]


SIZES = [(36, 36)] * 3


@pytest.fixture(params=["vlm", "vlm_text", "lm"])
def case(request, vlm, lm, images):
    """A subject with a padded batch and the same samples one by one."""
    subject = lm if request.param == "lm" else vlm
    shown = images if request.param == "vlm" else [None] * 3
    single = [subject.prepare([prompt], [image]) for prompt, image in zip(PROMPTS, shown)]
    return subject, subject.prepare(PROMPTS, shown), single, shown


def reference(subject: Subject, batch, images=(None,)):
    """Run the model as transformers does, all states and logits."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if images[0] is not None:
        pixels = subject.processor.image_processor(list(images), return_tensors="pt")
        inputs["pixel_values"] = pixels.pixel_values
    return subject.model(**inputs, output_hidden_states=True)


def test_shape_of_the_model(vlm, lm):
    for subject in (vlm, lm):
        assert (subject.n_layers, subject.n_heads, subject.d_head, subject.d_model) == (3, 4, 8, 32)
        assert not subject.model.training
        assert not any(parameter.requires_grad for parameter in subject.model.parameters())


def test_batch_is_padded_right_and_typed(vlm, images):
    batch = vlm.prepare(PROMPTS, images)
    words = [vlm.tokenizer.convert_ids_to_tokens(row) for row in batch.input_ids]
    assert words[0][:11] == ["<bos>"] + ["<image>"] * 9 + ["what"]
    assert [row[i] for row, i in zip(words, batch.last.tolist())] == ["assistant"] * 3
    lengths = [1 + 9 + len(prompt.split()) + 1 for prompt in PROMPTS]
    for types, mask, length in zip(batch.token_type.tolist(), batch.attention_mask.tolist(), lengths):
        text = length - 10
        assert types == [BOS] + [IMAGE] * 9 + [TEXT] * text + [PADDING] * (max(lengths) - length)
        assert mask == [1] * length + [0] * (max(lengths) - length)
    assert vlm.lengths(PROMPTS, SIZES) == lengths
    assert vlm.lengths(PROMPTS, [None] * 3) == [length - 9 for length in lengths]


def test_tokens_are_those_of_the_processor(vlm, images):
    text = vlm.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPTS[1]}]}],
        add_generation_prompt=True,
    )
    expected = vlm.processor(images=[images[1]], text=[text], return_tensors="pt", add_special_tokens=False)
    batch = vlm.prepare(PROMPTS[1:2], images[1:2])
    assert torch.equal(batch.input_ids, expected["input_ids"])
    features = vlm.model.get_image_features(pixel_values=expected["pixel_values"], return_dict=True)
    assert torch.equal(batch.seen.features, features.pooler_output[0])
    assert batch.seen.grids.tolist() == [[3, 3]]


@pytest.mark.parametrize("name", ["vlm", "lm"])
def test_raw_text_follows_bos_without_template(name, request):
    subject = request.getfixturevalue(name)
    batch = subject.prepare(["the red circle ."], [None], as_chat=False)
    words = subject.tokenizer.convert_ids_to_tokens(batch.input_ids[0])
    assert words == ["<bos>", "the", "red", "circle", "."]
    assert batch.token_type[0].tolist() == [BOS] + [TEXT] * 4
    assert subject.lengths(["the red circle ."], [None], as_chat=False) == [5]


def test_a_language_model_leaves_images_out(lm, images):
    assert torch.equal(lm.prepare(PROMPTS, images).input_ids, lm.prepare(PROMPTS, [None] * 3).input_ids)


def test_residuals_are_transformers_hidden_states(case):
    subject, batch, _, shown = case
    states = reference(subject, batch, shown).hidden_states
    residuals = subject.residuals(batch, [2, 0, 1])
    assert list(residuals) == [2, 0, 1]
    for layer in (0, 1):
        torch.testing.assert_close(residuals[layer], states[layer + 1], **TOLERANCE)
    # transformers' last state is after the final norm, ours before it.
    torch.testing.assert_close(subject.decoder.norm(residuals[2]), states[3], **TOLERANCE)
    assert not torch.allclose(residuals[2], states[3], atol=0.1)


def test_padding_changes_nothing(case):
    subject, batch, single, _ = case
    together = subject.residuals(batch, [0, 2])
    logits = subject.final_logits(batch)
    for row, alone in enumerate(single):
        length = alone.input_ids.shape[1]
        for layer, values in subject.residuals(alone, [0, 2]).items():
            torch.testing.assert_close(together[layer][row, :length], values[0], **TOLERANCE)
        torch.testing.assert_close(logits[row : row + 1], subject.final_logits(alone), **TOLERANCE)


def test_final_logits_are_transformers_logits(case):
    subject, batch, _, shown = case
    logits = reference(subject, batch, shown).logits[torch.arange(3), batch.last]
    torch.testing.assert_close(subject.final_logits(batch), logits, **TOLERANCE)


def test_samples_with_and_without_images_may_share_a_batch(vlm, images):
    mixed = vlm.prepare(PROMPTS, [None, images[1], images[2]])
    assert len(mixed.seen.grids) == 2
    values = vlm.residuals(mixed, [2])[2]
    for row, image in enumerate([None, images[1], images[2]]):
        alone = vlm.prepare(PROMPTS[row : row + 1], [image])
        length = alone.input_ids.shape[1]
        torch.testing.assert_close(values[row, :length], vlm.residuals(alone, [2])[2][0], **TOLERANCE)


def test_images_matter(vlm, images):
    one, other = (vlm.prepare(PROMPTS[:1], [image]) for image in images[:2])
    difference = (vlm.residuals(one, [2])[2] - vlm.residuals(other, [2])[2]).abs()
    assert difference[:, 1:].max() > 0.01
    assert difference[:, 0].max() == 0


def test_blocks_after_the_last_layer_do_not_run(vlm, images):
    batch, ran = vlm.prepare(PROMPTS, images), []

    def note(name):
        return lambda value: ran.append(name) or value

    with hooks(
        *(edit_output(vlm.block(layer), note(layer)) for layer in range(3)),
        edit_output(vlm.model.lm_head, note("head")),
    ):
        vlm.residuals(batch, [1])
    assert ran == [0, 1]


def test_embeddings_can_be_replaced(case):
    subject, batch, *_ = case
    embeds = subject.embed(batch)
    assert torch.equal(subject.residuals(batch, [1], embeds)[1], subject.residuals(batch, [1])[1])
    moved = subject.residuals(batch, [1], embeds + 1)[1]
    assert not torch.allclose(moved, subject.residuals(batch, [1])[1], atol=0.1)


def test_gradients_reach_embeddings(case):
    subject, batch, *_ = case
    embeds = subject.embed(batch).requires_grad_()
    subject.residuals(batch, [1], embeds)[1].sum().backward()
    assert embeds.grad.abs().sum() > 0


def test_an_edited_block_output_is_what_is_recorded(case):
    subject, batch, *_ = case
    before = subject.residuals(batch, [0, 1])
    with edit_output(subject.block(0), lambda value: value * 2):
        after = subject.residuals(batch, [0, 1])
    assert torch.equal(after[0], before[0] * 2)
    assert not torch.allclose(after[1], before[1], atol=0.1)
    assert torch.equal(subject.residuals(batch, [1])[1], before[1])


def test_block_is_the_sum_of_its_parts(case):
    subject, batch, *_ = case
    seen = {}

    def keep(name):
        return lambda value: seen.setdefault(name, value)

    with hooks(
        edit_output(subject.attention(1), keep("attention")), edit_output(subject.mlp(1), keep("mlp"))
    ):
        residuals = subject.residuals(batch, [0, 1])
    expected = residuals[0] + seen["attention"] + seen["mlp"]
    torch.testing.assert_close(residuals[1], expected, **TOLERANCE)


def test_editing_the_heads_input_equals_editing_attention_output(case):
    subject, batch, *_ = case
    with edit_input(subject.attention_output(1), torch.zeros_like):
        heads_off = subject.residuals(batch, [2])[2]
    with edit_output(subject.attention(1), torch.zeros_like):
        attention_off = subject.residuals(batch, [2])[2]
    assert torch.equal(heads_off, attention_off)
    assert not torch.allclose(heads_off, subject.residuals(batch, [2])[2], atol=0.01)


def test_an_input_given_by_keyword_is_edited(lm):
    batch = lm.prepare(PROMPTS, [None] * 3)
    with edit_input(lm.attention(0), torch.zeros_like):
        off = lm.residuals(batch, [0])[0]
    with edit_output(lm.attention(0), torch.zeros_like):
        assert torch.equal(lm.residuals(batch, [0])[0], off)


def test_hooks_are_removed_after_an_error(lm):
    batch = lm.prepare(PROMPTS, [None] * 3)
    before = lm.final_logits(batch)

    def fail(value):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"), edit_output(lm.block(1), fail):
        lm.residuals(batch, [2])
    assert torch.equal(lm.final_logits(batch), before)


@pytest.mark.parametrize("layers", [[3], [-1], [0, 7], []])
def test_a_layer_that_the_model_lacks_is_named(lm, layers):
    with pytest.raises(SubjectError, match="'lm' has blocks 0 to 2"):
        lm.residuals(lm.prepare(PROMPTS, [None] * 3), layers)


def test_an_image_placeholder_in_a_prompt_is_refused(vlm, images):
    with pytest.raises(SubjectError, match="remove '<image>' from the prompts"):
        vlm.prepare(["what is <image> ?"], images[:1])


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
def test_other_language_models_with_shared_key_heads(family, tmp_path):
    """Grouped-query attention, wide heads, tied and scaled embeddings, squashed logits."""
    from tiny_models import tiny_tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = tiny_tokenizer()
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=True,
        initializer_range=0.2,
        pad_token_id=tokenizer.pad_token_id,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    subject = load_subject("m", {"family": "causal_lm", "attention": "eager"}, tmp_path)
    batch = subject.prepare(PROMPTS, [None] * 3)
    output = reference(subject, batch)
    residuals = subject.residuals(batch, [0, 1])
    torch.testing.assert_close(residuals[0], output.hidden_states[1], **TOLERANCE)
    torch.testing.assert_close(subject.decoder.norm(residuals[1]), output.hidden_states[2], **TOLERANCE)
    expected = output.logits[torch.arange(3), batch.last]
    torch.testing.assert_close(subject.final_logits(batch), expected, **TOLERANCE)
    assert (subject.d_head, subject.attention_output(0).in_features) == (16, 64)


def test_a_template_without_bos_gets_one_bos(tiny_lm_path, tmp_path):
    folder = shutil.copytree(tiny_lm_path, tmp_path / "lm")
    for template in folder.glob("chat_template.jinja"):
        template.write_text(template.read_text().replace("{{ bos_token }}", ""))
    subject = load_subject("lm", {"family": "causal_lm"}, folder)
    batch = subject.prepare(PROMPTS, [None] * 3)
    assert (batch.token_type == BOS).sum(1).tolist() == [1, 1, 1]
    words = subject.tokenizer.convert_ids_to_tokens(batch.input_ids[0])
    assert words[:3] + words[-2:] == ["<bos>", "what", "colour", "<pad>", "<pad>"]
    assert words[int(batch.last[0])] == "assistant"


def test_without_a_bos_token_the_first_token_is_taken_for_the_sink(tiny_lm_path):
    subject = load_subject("lm", {"family": "causal_lm"}, tiny_lm_path)
    subject.tokenizer.bos_token = None
    batch = subject.prepare(PROMPTS[:1], [None], as_chat=False)
    assert batch.token_type[0].tolist() == [BOS] + [TEXT] * (batch.input_ids.shape[1] - 1)
