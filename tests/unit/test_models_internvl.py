"""InternVL: one tile a picture, marks around it, Qwen blocks - all as transformers has them."""

import json
import shutil

import family_checks as checks
import pytest
import tiny_internvl as tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from vlmdiff.activations.tokens import BOS, IMAGE, PADDING, TEXT
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.hooks import edit_output
from vlmdiff.models.registry import load_subject

PROMPTS = ["Where is the cat?", "Is the following statement correct? The dog is left of the car. Yes or No?"]
PICTURES = [
    Image.linear_gradient("L").convert("RGB").resize((60, 40)),
    Image.radial_gradient("L").convert("RGB").resize((40, 200)),
]


def load(folder, **changes):
    return load_subject("vlm", {"family": "internvl", "attention": "eager", **changes}, folder, "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.build(tmp_path_factory.mktemp("internvl") / "vlm", layers=3)


@pytest.fixture(scope="module", params=["qwen3", "qwen2"])
def subject(request, folder, tmp_path_factory):
    if request.param == "qwen2":
        folder = tiny.build(tmp_path_factory.mktemp("internvl") / "qwen2", layers=3, text="qwen2")
    return load(folder)


@pytest.fixture(scope="module")
def batch(subject):
    return subject.prepare(PROMPTS, PICTURES)


@pytest.fixture(scope="module")
def runs(subject, tmp_path_factory):
    return checks.runs_of(subject, checks.question_samples(tmp_path_factory.mktemp("samples"), PICTURES))


def inputs_of(subject, prompt, picture):
    """Write a sample's inputs by hand: template, expanded placeholder, one tile."""
    text = f"<|im_start|>user\n<img>{'<IMG_CONTEXT>' * 9}</img>\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    pixels = subject.processor.image_processor([picture], crop_to_patches=False, return_tensors="pt")
    ids = subject.tokenizer([text], return_tensors="pt", add_special_tokens=False)["input_ids"]
    return {"input_ids": ids, "pixel_values": pixels.pixel_values}


def test_the_checkpoint_is_as_published(folder):
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 1
    assert {name.split(".")[0] for name in index} == {
        "language_model",
        "vision_tower",
        "multi_modal_projector",
    }
    written = json.loads((folder / "preprocessor_config.json").read_text())
    assert written["image_processor_type"] == "GotOcr2ImageProcessorFast"


def test_prompt_is_the_template_with_marks_around_the_image(subject, batch):
    for row, prompt in enumerate(PROMPTS):
        ids = inputs_of(subject, prompt, PICTURES[row])["input_ids"][0].tolist()
        assert batch.input_ids[row, : len(ids)].tolist() == ids
        types = batch.token_type[row].tolist()
        first = ids.index(subject.image_id)
        assert types[0] == BOS
        assert types[first : first + 9] == [IMAGE] * 9
        assert set(types[1:first]) == {TEXT}
        assert set(types[first + 9 : len(ids)]) == {TEXT}
        assert set(types[len(ids) :]) <= {PADDING}
    assert subject.lengths(PROMPTS, [p.size for p in PICTURES]) == (batch.last + 1).tolist()
    words = [subject.tokenizer.encode(word, add_special_tokens=False)[0] for word in ("Yes", "No")]
    assert words[0] != words[1]


def test_a_picture_is_one_tile_even_if_the_processor_would_cut_it(subject, batch):
    assert subject.processor.image_processor.crop_to_patches
    cut = subject.processor.image_processor(PICTURES[1:], return_tensors="pt")
    assert len(cut.pixel_values) > 1
    assert batch.seen.grids.tolist() == [[3, 3], [3, 3]]
    assert batch.seen.features.shape == (18, 32)


def test_residuals_logits_and_images_are_those_of_transformers(subject, batch):
    residuals, logits = subject.residuals(batch, [0, 1, 2]), subject.final_logits(batch)
    for row, prompt in enumerate(PROMPTS):
        inputs = inputs_of(subject, prompt, PICTURES[row])
        output = subject.model(**inputs, output_hidden_states=True)
        length = inputs["input_ids"].shape[1]
        shown = batch.seen.features[9 * row : 9 * row + 9]
        torch.testing.assert_close(shown, output.image_hidden_states[0], **checks.CLOSE)
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

        def bump(output, place=1 + 6 * row + column):
            output.last_hidden_state[:, place] += 1
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
    checks.check_prefix(subject, batch)


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
    assert batch.input_ids[0].tolist() == subject.tokenizer.encode("A cat.", add_special_tokens=False)
    assert batch.token_type[0].tolist() == [BOS] + [TEXT] * int(batch.last)
    asked = subject.tokenizer.decode(subject.prepare(PROMPTS[:1], [None]).input_ids[0])
    assert asked == f"<|im_start|>user\n{PROMPTS[0]}<|im_end|>\n<|im_start|>assistant\n"


def test_the_language_model_alone(folder):
    whole, alone = load(folder), load(folder, text_only=True)
    batch = alone.prepare(PROMPTS, PICTURES)
    assert IMAGE not in batch.token_type
    expected = whole.final_logits(whole.prepare(PROMPTS, [None, None]))
    assert torch.equal(alone.final_logits(batch), expected)


def test_a_placeholder_in_a_prompt_is_refused(subject):
    with pytest.raises(SubjectError, match="remove '<IMG_CONTEXT>' from the prompts"):
        subject.prepare(["What is <IMG_CONTEXT>?"], PICTURES[:1])


def test_a_processor_of_another_size_is_refused(folder, tmp_path):
    wrong = shutil.copytree(folder, tmp_path / "wrong")
    file = wrong / "preprocessor_config.json"
    values = json.loads(file.read_text()) | {"size": {"height": 112, "width": 112}}
    file.write_text(json.dumps(values))
    with pytest.raises(SubjectError, match="its tower makes 16 tokens of the picture, .* places for 9"):
        load(wrong).prepare(PROMPTS[:1], PICTURES[:1])


def test_weights_under_newer_names_are_read_too(folder, tmp_path):
    """Newer versions of transformers write `model.language_model.*` and so on."""
    newer = shutil.copytree(folder, tmp_path / "newer")
    weights = {}
    for file in newer.glob("*.safetensors*"):
        weights |= {} if file.suffix == ".json" else load_file(file)
        file.unlink()
    renamed = {
        "model." + name.replace("language_model.model", "language_model"): v for name, v in weights.items()
    }
    save_file(renamed, newer / "model.safetensors", metadata={"format": "pt"})
    one, other = load(folder), load(newer)
    batch = one.prepare(PROMPTS, PICTURES)
    assert torch.equal(one.final_logits(batch), other.final_logits(other.prepare(PROMPTS, PICTURES)))
    assert one.fingerprint != other.fingerprint
