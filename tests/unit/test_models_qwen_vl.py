"""Qwen-VL: pictures of any size, three axes of positions, deepstack - all as transformers has them."""

import family_checks as checks
import pytest
import tiny_qwen_vl as tiny
import torch
from PIL import Image

from vlmdiff.activations.tokens import BOS, IMAGE, PADDING, TEXT
from vlmdiff.heads.corruption import mean_image
from vlmdiff.models.registry import load_subject

PROMPTS = ["Where is the cat?", "Is the following statement correct? The dog is left of the car. Yes or No?"]
PICTURES = [
    Image.linear_gradient("L").convert("RGB").resize((90, 60)),
    Image.radial_gradient("L").convert("RGB").resize((50, 170)),
]
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


@pytest.fixture(scope="module", params=["2", "2_5", "3"])
def generation(request):
    return request.param


@pytest.fixture(scope="module")
def folder(generation, tmp_path_factory):
    return tiny.build(tmp_path_factory.mktemp("qwen") / generation, generation=generation)


@pytest.fixture(scope="module")
def subject(folder):
    return load_subject("vlm", {"family": "qwen_vl", "attention": "eager"}, folder, "cpu")


@pytest.fixture(scope="module")
def batch(subject):
    return subject.prepare(PROMPTS, PICTURES)


@pytest.fixture(scope="module")
def runs(subject, tmp_path_factory):
    return checks.runs_of(subject, checks.question_samples(tmp_path_factory.mktemp("samples"), PICTURES))


def inputs_of(subject, prompt, picture):
    """Write a sample's inputs by hand: template, one pad for every four patches, token types."""
    seen = subject.processor.image_processor([picture], return_tensors="pt")
    pads = "<|image_pad|>" * int(seen.image_grid_thw.prod() // 4)
    image = f"<|vision_start|>{pads}<|vision_end|>"
    text = f"<|im_start|>user\n{image}{prompt}<|im_end|>\n<|im_start|>assistant\n"
    ids = subject.tokenizer([text], return_tensors="pt", add_special_tokens=False)["input_ids"]
    types = (ids == subject.image_id).int()
    return {"input_ids": ids, "mm_token_type_ids": types, **seen, "attention_mask": torch.ones_like(ids)}


def test_the_checkpoint_is_sharded(folder):
    assert len(list(folder.glob("*.safetensors"))) > 1


def test_tokens_follow_the_size_of_the_picture(subject, batch):
    grids = [tuple(grid) for grid in batch.seen.grids.tolist()]
    assert len(set(grids)) == 2
    assert grids == [subject.grid_of(picture.size) for picture in PICTURES]
    assert grids[1][0] > grids[1][1]
    for row, (prompt, picture) in enumerate(zip(PROMPTS, PICTURES, strict=True)):
        ids = inputs_of(subject, prompt, picture)["input_ids"][0].tolist()
        types = batch.token_type[row].tolist()
        assert batch.input_ids[row, : len(ids)].tolist() == ids
        assert types[0] == BOS
        assert types.count(IMAGE) == grids[row][0] * grids[row][1]
        assert set(types[len(ids) :]) <= {PADDING}
        assert types.count(TEXT) == len(ids) - 1 - types.count(IMAGE)


@pytest.mark.parametrize("size", [(20, 20), (640, 480), (31, 400), (300, 29), (57, 83)])
def test_the_grid_is_known_without_opening_the_picture(subject, size):
    seen = subject.processor.image_processor([Image.new("RGB", size)], return_tensors="pt")
    rows, columns = subject.grid_of(size)
    assert seen.image_grid_thw.tolist() == [[1, 2 * rows, 2 * columns]]


def test_residuals_and_logits_are_those_of_transformers(subject, batch):
    residuals, logits = subject.residuals(batch, [0, 1, 2]), subject.final_logits(batch)
    for row, prompt in enumerate(PROMPTS):
        inputs = inputs_of(subject, prompt, PICTURES[row])
        output = subject.model(**inputs, output_hidden_states=True)
        length = inputs["input_ids"].shape[1]
        torch.testing.assert_close(logits[row], output.logits[0, -1], **CLOSE)
        for layer in (0, 1):
            states = output.hidden_states[layer + 1][0]
            torch.testing.assert_close(residuals[layer][row, :length], states, **CLOSE)
        last = subject.decoder.norm(residuals[2])[row, :length]
        torch.testing.assert_close(last, output.hidden_states[-1][0], **CLOSE)


def test_deepstack_features_enter_between_blocks(subject, batch, generation):
    residuals, entering = subject.residuals(batch, [0, 1, 2]), subject.entering(batch, [1, 2])
    is_image = batch.token_type == IMAGE
    for layer in (1, 2):
        added = entering[layer] - residuals[layer - 1]
        assert added[~is_image].abs().max() == 0
        if generation == "3":
            torch.testing.assert_close(added[is_image], batch.seen.deepstack[layer - 1], **CLOSE)
        else:
            assert added.abs().max() == 0


def test_text_alone(subject):
    batch = subject.prepare(PROMPTS, [None, None])
    for row, prompt in enumerate(PROMPTS):
        text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        ids = subject.tokenizer([text], return_tensors="pt", add_special_tokens=False)["input_ids"]
        expected = subject.model(input_ids=ids).logits[0, -1]
        torch.testing.assert_close(subject.final_logits(batch)[row], expected, **CLOSE)


def test_padding_changes_nothing(subject):
    checks.check_padding_changes_nothing(subject, PROMPTS, PICTURES)


def test_own_words_are_those_of_greedy_generation(subject, batch):
    made = []
    for prompt, picture in zip(PROMPTS, PICTURES, strict=True):
        inputs = inputs_of(subject, prompt, picture)
        found = subject.model.generate(**inputs, max_new_tokens=4, do_sample=False)[0].tolist()
        made.append(found[inputs["input_ids"].shape[1] :])
    checks.check_own_words(subject, batch, made)


def test_heads(subject):
    checks.check_heads(subject, subject.prepare(PROMPTS[:1], PICTURES[:1]), 1)


def test_restart(subject, batch):
    checks.check_restart(subject, batch)
    checks.check_prefix(subject, batch)


def test_ablation(subject, batch):
    checks.check_ablation(subject, batch, 1)


def test_patching(subject, runs):
    checks.check_patching(subject, runs)


def test_attribution(subject, runs):
    checks.check_attribution(subject, runs)


def test_extraction(subject, tmp_path):
    checks.check_extraction(subject, checks.question_samples(tmp_path, PICTURES), tmp_path / "shard.h5")


def test_the_mean_image_of_differing_pictures_is_one_token(subject, runs, generation, tmp_path):
    samples = checks.question_samples(tmp_path, PICTURES)
    mean = mean_image(subject, samples, 400)
    assert mean.positions is None and len(mean.token) == {"2": 1, "2_5": 1, "3": 3}[generation]
    every = torch.cat([subject.see([sample.open_image()]).features for sample in samples])
    torch.testing.assert_close(mean.token[0, 0], every.mean(dim=0))
    for run in runs:
        is_image = run.batch.token_type == IMAGE
        assert torch.equal(run.corrupt[~is_image], run.clean[~is_image])
        torch.testing.assert_close(run.corrupt[is_image][0], run.corrupt[is_image][-1])


def test_the_language_model_alone(folder, subject):
    spec = {"family": "qwen_vl", "attention": "eager", "text_only": True}
    alone = load_subject("lm", spec, folder, "cpu")
    batch = alone.prepare(PROMPTS, PICTURES)
    assert IMAGE not in batch.token_type
    expected = subject.residuals(subject.prepare(PROMPTS, [None, None]), [1])[1]
    assert torch.equal(alone.residuals(batch, [1])[1], expected)
