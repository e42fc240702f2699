"""PaliGemma: prefix attention, image tokens before BOS, post-normed blocks - all as transformers has them."""

import json
import shutil

import family_checks as checks
import pytest
import tiny_paligemma as tiny
import torch
from PIL import Image

from vlmdiff.activations.tokens import BOS, IMAGE, PADDING, TEXT
from vlmdiff.config.choices import choice_token_ids
from vlmdiff.models.describe import describe, rows_of
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.hooks import edit_output, hooks
from vlmdiff.models.registry import load_subject

PROMPTS = ["Where is the cat?", "Is the following statement correct? The dog is left of the car. Yes or No?"]
PICTURES = [
    Image.linear_gradient("L").convert("RGB").resize((60, 40)),
    Image.radial_gradient("L").convert("RGB").resize((40, 70)),
]
KINDS = {"long_window": {}, "short_window": {"sliding_window": 8}, "first": {"gemma": 1}}


def load(folder, **changes):
    return load_subject("vlm", {"family": "paligemma", "attention": "eager", **changes}, folder, "cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("paligemma")
    return {kind: tiny.build(root / kind, layers=3, **changes) for kind, changes in KINDS.items()}


@pytest.fixture(scope="module")
def folder(folders):
    return folders["long_window"]


@pytest.fixture(scope="module", params=list(KINDS))
def subject(request, folders):
    return load(folders[request.param])


@pytest.fixture(scope="module")
def batch(subject):
    return subject.prepare(PROMPTS, PICTURES)


@pytest.fixture(scope="module")
def runs(subject, tmp_path_factory):
    return checks.runs_of(subject, checks.question_samples(tmp_path_factory.mktemp("samples"), PICTURES))


def reference(subject, prompt, picture):
    """Run transformers' own processor and model on one sample."""
    inputs = subject.processor(text=f"<image>{prompt}", images=picture, return_tensors="pt")
    return inputs, subject.model(**inputs, output_hidden_states=True)


def spoken_after(subject, inputs, steps=4):
    """Return what transformers' own greedy generation says."""
    made = subject.model.generate(**inputs, max_new_tokens=steps, do_sample=False)[0].tolist()
    return made[inputs["input_ids"].shape[1] :]


def test_the_checkpoint_is_as_published(folder):
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 1
    assert "language_model.model.layers.0.post_feedforward_layernorm.weight" in index
    assert "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight" in index
    assert "multi_modal_projector.linear.weight" in index
    assert not (folder / "processor_config.json").exists()


def test_prompt_is_image_bos_text_newline(subject, batch):
    for row, prompt in enumerate(PROMPTS):
        inputs, _ = reference(subject, prompt, PICTURES[row])
        length, types = inputs["input_ids"].shape[1], batch.token_type[row].tolist()
        assert batch.input_ids[row, :length].tolist() == inputs["input_ids"][0].tolist()
        assert types[:10] == [IMAGE] * 9 + [BOS]
        assert set(types[10:length]) == {TEXT}
        assert set(types[length:]) <= {PADDING}
        assert subject.tokenizer.decode(batch.input_ids[row, 10:length]) == f"{prompt}\n"
    assert subject.lengths(PROMPTS, [p.size for p in PICTURES]) == (batch.last + 1).tolist()


def test_any_english_text_and_the_answers_have_tokens(subject):
    text = "Is the café’s “naïve” sign: left, below (or behind) 3 zebras?"
    ids = subject.prepare([text], [None]).input_ids[0, 1:-1]
    assert subject.tokenizer.unk_token_id not in ids
    assert subject.tokenizer.decode(ids) == text
    assert len(choice_token_ids(subject.tokenizer, ["Yes", "No"])) == 2


def test_residuals_logits_and_images_are_those_of_transformers(subject, batch):
    residuals, logits = subject.residuals(batch, [0, 1, 2]), subject.final_logits(batch)
    for row, prompt in enumerate(PROMPTS):
        _, output = reference(subject, prompt, PICTURES[row])
        length = output.logits.shape[1]
        shown = batch.seen.features[9 * row : 9 * row + 9]
        torch.testing.assert_close(shown, output.image_hidden_states[0], **checks.CLOSE)
        for layer in (0, 1):
            states = output.hidden_states[layer + 1][0]
            torch.testing.assert_close(residuals[layer][row, :length], states, **checks.CLOSE)
        last = subject.decoder.norm(residuals[2])[row, :length]
        torch.testing.assert_close(last, output.hidden_states[3][0], **checks.CLOSE)
        torch.testing.assert_close(logits[row], output.logits[0, -1], **checks.CLOSE)


def test_windows_logit_caps_and_wide_heads_are_in_the_tiny_model(folders):
    long, short = load(folders["long_window"]), load(folders["short_window"])
    assert long.d_head * long.n_heads == 64 != long.d_model
    assert long.model.config.text_config.final_logit_softcapping == 30
    raw = {"prompts": [PROMPTS[1]], "images": [PICTURES[0]], "as_chat": False}
    with_window = short.final_logits(short.prepare(**raw))
    assert not torch.allclose(with_window, long.final_logits(long.prepare(**raw)), atol=1e-3)


def test_padding_changes_nothing(subject):
    checks.check_padding_changes_nothing(subject, PROMPTS, PICTURES)
    checks.check_padding_changes_nothing(subject, PROMPTS, [PICTURES[0], None])


def test_a_prompt_without_a_picture_is_a_prefix_too(subject):
    batch = subject.prepare(PROMPTS[:1], [None])
    assert batch.token_type[0].tolist() == [BOS] + [TEXT] * int(batch.last)
    output = subject.model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        token_type_ids=torch.zeros_like(batch.input_ids),
    )
    torch.testing.assert_close(subject.final_logits(batch), output.logits[:, -1], **checks.CLOSE)


def test_the_prompt_sees_itself_in_both_directions_and_documents_do_not(subject, batch):
    other = subject.prepare([PROMPTS[0].replace("?", "!")], PICTURES[:1])
    moved = subject.residuals(batch, [1])[1][:1, : other.input_ids.shape[1]]
    moved = moved - subject.residuals(other, [1])[1]
    assert moved[0, 0].abs().max() > 1e-4
    for picture, prefix in ((None, 1), (PICTURES[0], 10)):
        document = subject.prepare(["The cat is here."], [picture], as_chat=False)
        changed = subject.prepare(["The cat is here!"], [picture], as_chat=False)
        difference = (subject.residuals(document, [1])[1] - subject.residuals(changed, [1])[1]).abs()
        assert document.generated.tolist() == [document.input_ids.shape[1] - prefix]
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
    torch.testing.assert_close(ours[real], plain[real], **checks.CLOSE)


def test_own_words_are_those_of_greedy_generation(subject, batch):
    spoken = [
        spoken_after(subject, reference(subject, prompt, picture)[0])
        for prompt, picture in zip(PROMPTS, PICTURES, strict=True)
    ]
    checks.check_own_words(subject, batch, spoken)


def test_a_document_stays_one_while_the_model_goes_on(subject):
    document = subject.prepare(["The cat is at the left side."], [None], as_chat=False)
    longer = describe(subject, document, 3, ())
    assert longer.generated.tolist() == longer.last.tolist()
    ids = torch.tensor(rows_of(document))
    inputs = {"input_ids": ids, "token_type_ids": torch.ones_like(ids)}
    expected = spoken_after(subject, inputs, 3)
    assert rows_of(longer)[0][ids.shape[1] :] == expected


def test_a_block_adds_what_its_writers_write(subject, batch):
    written = []
    with hooks(*(edit_output(part, lambda v: written.append(v) or v) for part in subject.writers(1))):
        residual = subject.residuals(batch, [1])[1]
    entering = subject.entering(batch, [1])[1]
    torch.testing.assert_close(residual, entering + written[0] + written[1], **checks.CLOSE)


def test_what_enters_the_first_block_is_what_is_embedded(subject, batch):
    assert torch.equal(subject.entering(batch, [0])[0], subject.embed(batch))


def test_a_restart_is_the_whole_run(subject, batch):
    checks.check_restart(subject, batch)


def test_heads_are_attention_times_values(subject, batch):
    for layer in (0, 1):
        checks.check_heads(subject, batch, layer)


def test_an_ablation_touches_text_only(subject, batch):
    checks.check_ablation(subject, batch, 1)


def test_heads_are_patched_and_attributed_as_by_hand(subject, runs):
    checks.check_patching(subject, runs)
    checks.check_attribution(subject, runs)


def test_a_shard_holds_what_the_model_computes(subject, tmp_path):
    samples = checks.question_samples(tmp_path, PICTURES)
    documents = [sample.model_copy(update={"image": None, "chat": False}) for sample in samples]
    checks.check_extraction(subject, samples, tmp_path / "questions.h5")
    checks.check_extraction(subject, documents, tmp_path / "documents.h5")


def test_gemma_2_needs_eager_attention(folder):
    with pytest.raises(SubjectError, match="set `attention: eager` in the model's entry"):
        load(folder, attention="sdpa")


def test_the_first_gemma_may_use_sdpa(folders):
    eager, other = load(folders["first"]), load(folders["first"], attention="sdpa")
    batch = eager.prepare(PROMPTS, PICTURES)
    torch.testing.assert_close(other.final_logits(batch), eager.final_logits(batch), **checks.CLOSE)


@pytest.mark.parametrize("kind", ["first", "long_window"])
def test_flash_attention_would_read_prompts_from_left_to_right(folders, kind):
    with pytest.raises(
        SubjectError, match="cannot let a prompt see itself as a whole; set `attention: eager`"
    ):
        load(folders[kind], attention="flash_attention_2")


def test_a_processor_of_another_resolution_is_refused(folder, tmp_path):
    wrong = shutil.copytree(folder, tmp_path / "wrong")
    file = wrong / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_seq_length": 16}))
    with pytest.raises(SubjectError, match="the processor writes 16 image tokens, the tower makes 9"):
        load(wrong)


def test_the_language_model_alone(folder):
    whole, alone = load(folder), load(folder, text_only=True)
    for as_chat in (True, False):
        batch = alone.prepare(PROMPTS, PICTURES, as_chat)
        assert IMAGE not in batch.token_type
        expected = whole.residuals(whole.prepare(PROMPTS, [None, None], as_chat), [1])[1]
        assert torch.equal(alone.residuals(batch, [1])[1], expected)


def test_the_base_language_model_shares_the_tokens(folder, tmp_path):
    base = load_subject(
        "lm", {"family": "causal_lm", "attention": "eager"}, tiny.build_lm(tmp_path / "lm"), "cpu"
    )
    document = [PROMPTS[1]], [None], False
    assert torch.equal(base.prepare(*document).input_ids, load(folder).prepare(*document).input_ids)
