"""SmolVLM and Idefics3: one tile a picture, marks around it, Llama blocks - all as transformers has them."""

import json
import shutil

import family_checks as checks
import pytest
import tiny_smolvlm as tiny
import torch
from PIL import Image
from tiny_smolvlm import CHAT_TEMPLATE, smol_tokenizer

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
    return load_subject("vlm", {"family": "idefics3", "attention": "eager", **changes}, folder, "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.build(tmp_path_factory.mktemp("idefics3") / "vlm", layers=3)


@pytest.fixture(scope="module", params=["smolvlm", "idefics3"])
def subject(request, folder, tmp_path_factory):
    if request.param == "idefics3":
        folder = tiny.build(tmp_path_factory.mktemp("idefics3") / "old", layers=3, kind="idefics3")
    return load(folder)


@pytest.fixture(scope="module")
def batch(subject):
    return subject.prepare(PROMPTS, PICTURES)


@pytest.fixture(scope="module")
def runs(subject, tmp_path_factory):
    return checks.runs_of(subject, checks.question_samples(tmp_path_factory.mktemp("samples"), PICTURES))


def inputs_of(subject, prompt, picture):
    """Write a sample's inputs by hand: template, expanded placeholder, one tile."""
    image = f"<fake_token_around_image><global-img>{'<image>' * 9}<fake_token_around_image>"
    text = f"<|im_start|>User:{image}{prompt}<end_of_utterance>\nAssistant:"
    pixels = subject.processor.image_processor([[picture]], do_image_splitting=False, return_tensors="pt")
    ids = subject.tokenizer([text], return_tensors="pt", add_special_tokens=False)["input_ids"]
    return {"input_ids": ids, **{key: pixels[key] for key in ("pixel_values", "pixel_attention_mask")}}


def test_the_checkpoint_is_as_published(folder):
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 1
    parts = {".".join(name.split(".")[:2]) for name in index}
    assert parts == {"model.text_model", "model.vision_model", "model.connector"}
    written = json.loads((folder / "preprocessor_config.json").read_text())
    assert written["image_processor_type"] == "SmolVLMImageProcessor" and written["do_image_splitting"]


def test_inputs_are_those_of_the_published_processor(subject, batch):
    """Idefics3's own can be made here: it reads no videos."""
    from transformers import Idefics3Processor

    processor = Idefics3Processor(subject.processor.image_processor, smol_tokenizer(), image_seq_len=9)
    for row, prompt in enumerate(PROMPTS):
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        chat = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(chat, add_generation_prompt=True, chat_template=CHAT_TEMPLATE)
        made = processor(text=[text], images=[[PICTURES[row]]], do_image_splitting=False, return_tensors="pt")
        expected = inputs_of(subject, prompt, PICTURES[row])
        assert made.input_ids.tolist() == expected["input_ids"].tolist()
        assert torch.equal(made.pixel_values, expected["pixel_values"])
        assert rows_of(batch)[row] == made.input_ids[0].tolist()


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
    cut = subject.processor.image_processor([PICTURES[1:]], return_tensors="pt")
    assert cut.pixel_values.shape[1] > 1
    assert batch.seen.grids.tolist() == [[3, 3], [3, 3]]
    assert batch.seen.features.shape == (18, 32)


def test_residuals_logits_and_images_are_those_of_transformers(subject, batch):
    residuals, logits = subject.residuals(batch, [0, 1, 2]), subject.final_logits(batch)
    for row, prompt in enumerate(PROMPTS):
        inputs = inputs_of(subject, prompt, PICTURES[row])
        output = subject.model(**inputs, output_hidden_states=True)
        length = inputs["input_ids"].shape[1]
        shown = batch.seen.features[9 * row : 9 * row + 9]
        images = output.image_hidden_states
        images = images if isinstance(images, torch.Tensor) else images.pooler_output[0]
        torch.testing.assert_close(shown, images, **checks.CLOSE)
        for layer in (0, 1):
            states = output.hidden_states[layer + 1][0]
            torch.testing.assert_close(residuals[layer][row, :length], states, **checks.CLOSE)
        last = subject.decoder.norm(residuals[2])[row, :length]
        torch.testing.assert_close(last, output.hidden_states[3][0], **checks.CLOSE)
        torch.testing.assert_close(logits[row], output.logits[0, -1], **checks.CLOSE)


def test_token_rows_and_columns_are_those_of_the_picture(subject):
    """A change in the tower's patch (row, column) of 6 x 6 shows in the token of its 2 x 2 square."""
    tower, before = subject.model.model.vision_model, subject.see(PICTURES[:1]).features
    for row, column in [(0, 5), (3, 1), (5, 2)]:

        def bump(output, place=6 * row + column):
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
    assert asked == f"<|im_start|>User: {PROMPTS[0]}<end_of_utterance>\nAssistant:"


def test_the_language_model_alone(folder):
    whole, alone = load(folder), load(folder, text_only=True)
    batch = alone.prepare(PROMPTS, PICTURES)
    assert IMAGE not in batch.token_type
    expected = whole.final_logits(whole.prepare(PROMPTS, [None, None]))
    assert torch.equal(alone.final_logits(batch), expected)


def test_a_placeholder_in_a_prompt_is_refused(subject):
    with pytest.raises(SubjectError, match="remove '<image>' from the prompts"):
        subject.prepare(["What is <image>?"], PICTURES[:1])


def test_a_processor_of_another_size_is_refused(folder, tmp_path):
    wrong = shutil.copytree(folder, tmp_path / "wrong")
    file = wrong / "preprocessor_config.json"
    values = json.loads(file.read_text()) | {"max_image_size": {"longest_edge": 4 * tiny.PATCH}}
    file.write_text(json.dumps(values))
    with pytest.raises(SubjectError, match="its tower makes 4 tokens of the picture, .* places for 9"):
        load(wrong).prepare(PROMPTS[:1], PICTURES[:1])


def test_a_tokenizer_without_the_marks_is_refused(folder, tmp_path):
    wrong = shutil.copytree(folder, tmp_path / "wrong")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        text = (wrong / file).read_text()
        (wrong / file).write_text(text.replace("<global-img>", "<other>"))
    with pytest.raises(SubjectError, match="its tokenizer lacks <global-img>"):
        load(wrong)
