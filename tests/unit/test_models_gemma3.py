"""Gemma 3: images that see themselves both ways, windows, norms behind blocks - as transformers has it."""

import json
import shutil

import family_checks as checks
import pytest
import tiny_gemma3 as tiny
import torch
from PIL import Image

from vlmdiff.activations.tokens import BOS, IMAGE, PADDING, TEXT
from vlmdiff.models.describe import rows_of
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.hooks import edit_output
from vlmdiff.models.registry import load_subject

PROMPTS = ["Where is the cat?", "Is the following statement correct? The dog is left of the car. Yes or No?"]
PICTURES = [
    Image.linear_gradient("L").convert("RGB").resize((60, 40)),
    Image.radial_gradient("L").convert("RGB").resize((40, 200)),
]


def load(folder, **changes):
    return load_subject("vlm", {"family": "gemma3", "attention": "eager", **changes}, folder, "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.build(tmp_path_factory.mktemp("gemma3") / "vlm", layers=3)


@pytest.fixture(scope="module", params=["long_window", "short_window"])
def subject(request, folder, tmp_path_factory):
    if request.param == "short_window":
        folder = tiny.build(tmp_path_factory.mktemp("gemma3") / "short", layers=3, sliding_window=6)
    return load(folder)


@pytest.fixture(scope="module")
def batch(subject):
    return subject.prepare(PROMPTS, PICTURES)


@pytest.fixture(scope="module")
def runs(subject, tmp_path_factory):
    return checks.runs_of(subject, checks.question_samples(tmp_path_factory.mktemp("samples"), PICTURES))


def inputs_of(subject, prompt, picture):
    """Return a sample's inputs as Gemma's own processor makes them."""
    from transformers import Gemma3Processor

    processor = Gemma3Processor(
        subject.processor.image_processor, tiny.marked_tokenizer(), image_seq_length=9
    )
    content = [{"type": "image"}] * (picture is not None) + [{"type": "text", "text": prompt}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, chat_template=tiny.CHAT_TEMPLATE
    )
    images = None if picture is None else [[picture]]
    # The template writes BOS.
    return processor(text=[text], images=images, return_tensors="pt", add_special_tokens=False)


def test_the_checkpoint_is_as_published(folder):
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 1
    assert json.loads((folder / "config.json").read_text())["model_type"] == "gemma3"
    written = json.loads((folder / "preprocessor_config.json").read_text())
    assert written["image_processor_type"] == "Gemma3ImageProcessor"


def test_prompt_is_that_of_the_published_processor(subject, batch):
    for row, prompt in enumerate(PROMPTS):
        ids = inputs_of(subject, prompt, PICTURES[row])["input_ids"][0].tolist()
        assert rows_of(batch)[row] == ids
        types = batch.token_type[row].tolist()
        first = ids.index(subject.image_id)
        assert types[0] == BOS
        assert types[first : first + 9] == [IMAGE] * 9
        assert set(types[1:first]) == {TEXT}
        assert set(types[first + 9 : len(ids)]) == {TEXT}
        assert set(types[len(ids) :]) <= {PADDING}
    assert subject.lengths(PROMPTS, [p.size for p in PICTURES]) == (batch.last + 1).tolist()


def test_an_image_sees_itself_both_ways_and_words_do_not(subject):
    """A change of the last patch moves earlier image tokens; a change of the last word moves no other."""
    batch = subject.prepare(PROMPTS[:1], PICTURES[:1])
    embeds, image = subject.embed(batch), (batch.input_ids[0] == subject.image_id).nonzero().flatten()
    for place, moves in ((image[-1], True), (batch.last[0], False)):
        changed = embeds.clone()
        changed[0, place] += 1
        before = slice(image[0], place)
        difference = subject.residuals(batch, [0], changed)[0] - subject.residuals(batch, [0], embeds)[0]
        assert bool(difference[0, before].abs().max() > 1e-4) == moves
        assert not difference[0, : image[0]].any()


def test_no_crops_are_taken_even_if_the_processor_would(folder, tmp_path):
    wide = Image.radial_gradient("L").convert("RGB").resize((600, 40))
    cutting = shutil.copytree(folder, tmp_path / "cutting")
    file = cutting / "preprocessor_config.json"
    values = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 4, "pan_and_scan_max_num_crops": 4}
    values |= {"pan_and_scan_min_ratio_to_activate": 1.2}
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    subject = load(cutting)
    cut = subject.processor.image_processor([wide], return_tensors="pt")
    assert len(cut.pixel_values) > 1
    assert subject.see([wide]).grids.tolist() == [[3, 3]]


def test_residuals_logits_and_images_are_those_of_transformers(subject, batch):
    residuals, logits = subject.residuals(batch, [0, 1, 2]), subject.final_logits(batch)
    for row, prompt in enumerate(PROMPTS):
        inputs = inputs_of(subject, prompt, PICTURES[row])
        output = subject.model(**inputs, output_hidden_states=True)
        length = inputs["input_ids"].shape[1]
        shown = batch.seen.features[9 * row : 9 * row + 9]
        images = output.image_hidden_states[0]
        torch.testing.assert_close(shown, images, **checks.CLOSE)
        for layer in (0, 1):
            states = output.hidden_states[layer + 1][0]
            torch.testing.assert_close(residuals[layer][row, :length], states, **checks.CLOSE)
        last = subject.decoder.norm(residuals[2])[row, :length]
        torch.testing.assert_close(last, output.hidden_states[3][0], **checks.CLOSE)
        torch.testing.assert_close(logits[row], output.logits[0, -1], **checks.CLOSE)


def test_token_rows_and_columns_are_those_of_the_picture(subject):
    """A change in the tower's patch (row, column) of 6 x 6 shows in the token of its 2 x 2 square."""
    tower, before = subject.model.model.vision_tower, subject.see(PICTURES[:1]).features
    for row, column in [(0, 5), (3, 1), (5, 2)]:

        def bump(output, place=6 * row + column):
            output.last_hidden_state[:, place, 0] += 1
            return output

        with edit_output(tower, bump):
            moved = (subject.see(PICTURES[:1]).features - before).abs().amax(dim=1)
        assert moved.nonzero().flatten().tolist() == [3 * (row // 2) + column // 2]


def test_padding_changes_nothing(subject):
    checks.check_padding_changes_nothing(subject, PROMPTS, PICTURES)
    checks.check_padding_changes_nothing(subject, PROMPTS, [None, PICTURES[1]])


def test_own_words_are_those_of_greedy_generation(subject, batch):
    inputs = [inputs_of(subject, prompt, PICTURES[row]) for row, prompt in enumerate(PROMPTS)]
    checks.check_generation(subject, batch, subject.model, inputs)


def test_attention_implementations_agree(folder):
    eager, other = load(folder), load(folder, attention="sdpa")
    batch = eager.prepare(PROMPTS, PICTURES)
    torch.testing.assert_close(other.final_logits(batch), eager.final_logits(batch), **checks.CLOSE)


def test_a_block_adds_what_its_writers_write(subject, batch):
    checks.check_writers(subject, batch, 1)


def test_heads_are_attention_times_values(subject, batch):
    checks.check_heads(subject, batch, 1)


def test_a_restart_is_the_whole_run(subject, batch):
    checks.check_restart(subject, batch)


def test_an_ablation_touches_text_only(subject, batch):
    checks.check_ablation(subject, batch, 1)


def test_heads_are_patched_and_attributed_as_by_hand(subject, runs):
    checks.check_patching(subject, runs)
    checks.check_attribution(subject, runs)


def test_a_shard_holds_what_the_model_computes(subject, tmp_path):
    samples = checks.question_samples(tmp_path, PICTURES)
    checks.check_extraction(subject, samples, tmp_path / "shard.h5")


def test_text_needs_no_picture(subject):
    batch = subject.prepare(["A cat."], [None], as_chat=False)
    assert batch.input_ids[0].tolist() == subject.tokenizer.encode("A cat.")
    assert batch.token_type[0].tolist() == [BOS] + [TEXT] * int(batch.last)
    asked = subject.tokenizer.decode(subject.prepare(PROMPTS[:1], [None]).input_ids[0])
    assert asked == f"<bos><start_of_turn>user\n{PROMPTS[0]}<end_of_turn>\n<start_of_turn>model\n"


def test_a_picture_without_a_chat(subject):
    ids = subject.prepare(PROMPTS[:1], PICTURES[:1], as_chat=False).input_ids[0]
    text = f"<bos>\n\n<start_of_image>{'<image_soft_token>' * 9}<end_of_image>\n\n{PROMPTS[0]}"
    assert subject.tokenizer.decode(ids) == text


def test_flash_attention_is_refused(folder):
    with pytest.raises(SubjectError, match="an image see itself as a whole; set `attention: sdpa`"):
        load(folder, attention="flash_attention_2")


def test_the_language_model_alone(folder):
    whole, alone = load(folder), load(folder, text_only=True)
    batch = alone.prepare(PROMPTS, PICTURES)
    assert IMAGE not in batch.token_type
    expected = whole.final_logits(whole.prepare(PROMPTS, [None, None]))
    assert torch.equal(alone.final_logits(batch), expected)


def test_a_mark_of_an_image_in_a_prompt_is_refused(subject):
    with pytest.raises(SubjectError, match="remove '<start_of_image>' from the prompts"):
        subject.prepare(["What is <start_of_image>?"], [None])


def test_a_placeholder_in_a_prompt_is_refused(subject):
    with pytest.raises(SubjectError, match="remove '<image_soft_token>' from the prompts"):
        subject.prepare(["What is <image_soft_token>?"], PICTURES[:1])


def test_a_processor_of_another_size_is_refused(folder, tmp_path):
    wrong = shutil.copytree(folder, tmp_path / "wrong")
    file = wrong / "preprocessor_config.json"
    values = json.loads(file.read_text()) | {"size": {"height": 32, "width": 32}}
    file.write_text(json.dumps(values))
    with pytest.raises(SubjectError, match="cannot see even a blank picture"):
        load(wrong)
