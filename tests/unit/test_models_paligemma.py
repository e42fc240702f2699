"""PaliGemma 2: prefix attention, image tokens before BOS, post-normed blocks - all as transformers has them."""

import pytest
import tiny_paligemma as tiny
import torch
from PIL import Image

from vlmdiff.activations.tokens import BOS, IMAGE, PADDING, TEXT
from vlmdiff.heads.activity import head_values
from vlmdiff.interventions.ablation import plan_ablation
from vlmdiff.interventions.restart import restart
from vlmdiff.models.describe import describe, rows_of
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.hooks import edit_output, hooks
from vlmdiff.models.registry import load_subject

PROMPTS = ["Where is the cat?", "Is the following statement correct? The dog is left of the car. Yes or No?"]
PICTURES = [Image.new("RGB", (60, 40), "red"), Image.linear_gradient("L").convert("RGB").resize((40, 70))]
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.build(tmp_path_factory.mktemp("paligemma") / "vlm", layers=3)


@pytest.fixture(scope="module", params=["long_window", "short_window"])
def subject(request, folder, tmp_path_factory):
    if request.param == "short_window":
        folder = tiny.build(tmp_path_factory.mktemp("paligemma") / "short", layers=3, sliding_window=8)
    return load_subject("vlm", {"family": "paligemma", "attention": "eager"}, folder, "cpu")


def reference(subject, prompt, picture):
    """Run transformers' own processor and model on one sample."""
    inputs = subject.processor(text=f"<image>{prompt}", images=picture, return_tensors="pt")
    return inputs, subject.model(**inputs, output_hidden_states=True)


def test_the_checkpoint_is_sharded(folder):
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert (folder / "model.safetensors.index.json").is_file()


def test_prompt_is_image_bos_text_newline(subject):
    batch = subject.prepare(PROMPTS, PICTURES)
    types = batch.token_type.tolist()
    for row, prompt in enumerate(PROMPTS):
        inputs, _ = reference(subject, prompt, PICTURES[row])
        length = inputs["input_ids"].shape[1]
        assert batch.input_ids[row, :length].tolist() == inputs["input_ids"][0].tolist()
        assert types[row][:10] == [IMAGE] * 9 + [BOS]
        assert set(types[row][10:length]) == {TEXT}
        assert set(types[row][length:]) <= {PADDING}
    assert subject.lengths(PROMPTS, [p.size for p in PICTURES]) == (batch.last + 1).tolist()


def test_residuals_and_logits_are_those_of_transformers(subject):
    batch = subject.prepare(PROMPTS, PICTURES)
    residuals, logits = subject.residuals(batch, [0, 1, 2]), subject.final_logits(batch)
    for row, prompt in enumerate(PROMPTS):
        _, output = reference(subject, prompt, PICTURES[row])
        length = output.logits.shape[1]
        for layer in (0, 1):
            states = output.hidden_states[layer + 1][0]
            torch.testing.assert_close(residuals[layer][row, :length], states, **CLOSE)
        last = subject.decoder.norm(residuals[2])[row, :length]
        torch.testing.assert_close(last, output.hidden_states[3][0], **CLOSE)
        torch.testing.assert_close(logits[row], output.logits[0, -1], **CLOSE)


def test_the_prompt_sees_itself_in_both_directions_and_documents_do_not(subject):
    batch = subject.prepare(PROMPTS[:1], PICTURES[:1])
    other = subject.prepare([PROMPTS[0].replace("?", "!")], PICTURES[:1])
    moved = subject.residuals(batch, [1])[1] - subject.residuals(other, [1])[1]
    assert moved[0, 10].abs().max() > 1e-4
    document = subject.prepare(["The cat is here."], [None], as_chat=False)
    changed = subject.prepare(["The cat is here!"], [None], as_chat=False)
    difference = (subject.residuals(document, [1])[1] - subject.residuals(changed, [1])[1]).abs()
    assert document.generated.tolist() == [document.input_ids.shape[1] - 1]
    assert difference[0, :-1].max() == 0
    assert difference[0, -1].max() > 1e-4


def test_a_document_is_read_as_the_language_model_reads_it(subject):
    document = subject.prepare(["The cat is at the left side.", "A dog."], [None, None], as_chat=False)
    plain = subject.decoder(
        inputs_embeds=subject.embed(document),
        attention_mask=document.attention_mask,
        position_ids=torch.arange(document.input_ids.shape[1])[None] + 1,
    ).last_hidden_state
    ours = subject.run_decoder(document, subject.embed(document))
    real = document.attention_mask.bool()
    torch.testing.assert_close(ours[real], plain[real], **CLOSE)


def test_own_words_are_those_of_greedy_generation(subject):
    batch = subject.prepare(PROMPTS, PICTURES)
    longer = describe(subject, batch, 4, ())
    for row, prompt in enumerate(PROMPTS):
        inputs, _ = reference(subject, prompt, PICTURES[row])
        made = subject.model.generate(**inputs, max_new_tokens=4, do_sample=False)[0].tolist()
        eos = subject.tokenizer.eos_token_id
        spoken = made[inputs["input_ids"].shape[1] :]
        expected = spoken[: spoken.index(eos)] if eos in spoken else spoken
        assert rows_of(longer)[row] == rows_of(batch)[row] + expected


def test_a_block_adds_what_its_writers_write(subject):
    batch, written = subject.prepare(PROMPTS, PICTURES), []
    with hooks(*(edit_output(part, lambda v: written.append(v) or v) for part in subject.writers(1))):
        residual = subject.residuals(batch, [1])[1]
    entering = subject.entering(batch, [1])[1]
    torch.testing.assert_close(residual, entering + written[0] + written[1], **CLOSE)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_restart_is_the_whole_run(subject, layer):
    batch = subject.prepare(PROMPTS, PICTURES)
    expected = subject.final_logits(batch)
    with restart(subject, layer, subject.entering(batch, [layer])[layer]) as embeds:
        assert torch.equal(subject.final_logits(batch, embeds=embeds), expected)


def test_heads_are_slices_of_the_output_projections_input(subject):
    batch = subject.prepare(PROMPTS[:1], PICTURES[:1])
    found = head_values(subject, batch, [1], subject.embed(batch))[1][0].unflatten(-1, (4, 16))
    weights, values = [], []
    attention = subject.attention(1)
    handles = [
        attention.register_forward_hook(lambda _m, _a, out: weights.append(out[1])),
        attention.v_proj.register_forward_hook(lambda _m, _a, out: values.append(out)),
    ]
    subject.residuals(batch, [1])
    for handle in handles:
        handle.remove()
    by_group = values[0][0].unflatten(-1, (2, 16))
    for head in range(4):
        expected = weights[0][0, head] @ by_group[:, head // 2]
        torch.testing.assert_close(found[:, head], expected, **CLOSE)


def test_an_ablated_direction_is_gone_from_text_and_stays_on_images(subject):
    batch = subject.prepare(PROMPTS, PICTURES)
    direction = torch.nn.functional.normalize(torch.arange(1.0, 33.0), dim=0)
    ablation = plan_ablation(subject, {(1, 0): direction}, [(1, 0)], "own_layer")
    clean = subject.residuals(batch, [1])[1]
    with ablation(batch):
        ablated = subject.residuals(batch, [1])[1]
    text = batch.token_type == TEXT
    assert (ablated[text] @ direction).abs().max() < 1e-4
    assert torch.equal(ablated[batch.token_type == IMAGE], clean[batch.token_type == IMAGE])


def test_gemma_2_needs_eager_attention(folder):
    with pytest.raises(SubjectError, match="set `attention: eager` in the model's entry"):
        load_subject("vlm", {"family": "paligemma", "attention": "sdpa"}, folder, "cpu")


def test_the_language_model_alone(folder):
    spec = {"family": "paligemma", "attention": "eager"}
    whole = load_subject("vlm", spec, folder, "cpu")
    alone = load_subject("lm", spec | {"text_only": True}, folder, "cpu")
    batch = alone.prepare(PROMPTS, PICTURES)
    assert IMAGE not in batch.token_type
    expected = whole.residuals(whole.prepare(PROMPTS, [None, None]), [1])[1]
    assert torch.equal(alone.residuals(batch, [1])[1], expected)
