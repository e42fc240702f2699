"""Mistral 3 and Pixtral: pictures of any proportions, a token behind each row - all as in transformers."""

import importlib
import json
import shutil
import sys

import family_checks as checks
import pytest
import tiny_pixtral as tiny
import torch
from PIL import Image

from vlmdiff.activations.tokens import BOS, BREAK, IMAGE, PADDING, TEXT
from vlmdiff.heads.corruption import mean_image
from vlmdiff.models.describe import rows_of
from vlmdiff.models.errors import PromptError, SubjectError
from vlmdiff.models.hooks import edit_output
from vlmdiff.models.positions import text_after_image
from vlmdiff.models.registry import load_subject

PROMPTS = ["Where is the cat?", "Is the following statement correct? The dog is left of the car. Yes or No?"]
PICTURES = [
    Image.linear_gradient("L").convert("RGB").resize((90, 60)),
    Image.radial_gradient("L").convert("RGB").resize((50, 170)),
]
GRIDS = [[4, 6], [6, 2]]
PROCESSING = "transformers.models.pixtral"


def load(folder, **changes):
    return load_subject("vlm", {"family": "pixtral", "attention": "eager", **changes}, folder, "cpu")


@pytest.fixture(scope="module", params=["mistral3", "pixtral"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    return tiny.build(tmp_path_factory.mktemp("pixtral") / kind, layers=3, kind=kind)


@pytest.fixture(scope="module")
def subject(folder):
    return load(folder)


@pytest.fixture(scope="module")
def batch(subject):
    return subject.prepare(PROMPTS, PICTURES)


@pytest.fixture(scope="module")
def runs(subject, tmp_path_factory):
    return checks.runs_of(subject, checks.question_samples(tmp_path_factory.mktemp("samples"), PICTURES))


@pytest.fixture(scope="module")
def published(kind):
    """Return the published processor, so far as it can be had without torchvision: how it writes an image."""
    with pytest.MonkeyPatch.context() as patch:
        pil = importlib.import_module(f"{PROCESSING}.image_processing_pil_pixtral")
        patch.setitem(sys.modules, f"{PROCESSING}.image_processing_pixtral", pil)
        module = importlib.import_module(f"{PROCESSING}.processing_pixtral")
    processor = object.__new__(module.PixtralProcessor)
    processor.image_token, processor.image_break_token = "[IMG]", "[IMG_BREAK]"
    processor.image_end_token = "[IMG_END]"
    processor.spatial_merge_size = tiny.MERGES[kind]
    processor.patch_size = tiny.SIDE // tiny.MERGES[kind]
    return processor


def inputs_of(subject, published, prompt, picture):
    """Write a sample's inputs by the published processor: template, image tokens with breaks, sizes."""
    side = published.patch_size * published.spatial_merge_size
    seen = subject.processor.image_processor([picture], patch_size=side, return_tensors="pt")
    image = published.replace_image_token(seen, 0)
    system = "" if published.spatial_merge_size == 1 else tiny.SYSTEM
    text = f"<s>{system}[INST]{image}{prompt}[/INST]"
    ids = subject.tokenizer([text], return_tensors="pt", add_special_tokens=False)["input_ids"]
    return {"input_ids": ids, "pixel_values": seen.pixel_values, "image_sizes": seen.image_sizes}


def test_the_checkpoint_is_as_published(folder, kind):
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 1
    parts = {name.split(".")[0] for name in index}
    assert parts == {"language_model", "vision_tower", "multi_modal_projector"}
    merging = "multi_modal_projector.patch_merger.merging_layer.weight"
    assert (merging in index) == (kind == "mistral3")
    described = json.loads((folder / "config.json").read_text())
    assert described["model_type"] == {"mistral3": "mistral3", "pixtral": "llava"}[kind]
    assert described["vision_config"]["model_type"] == "pixtral"


def test_tokens_are_those_of_the_published_processor(subject, batch, published):
    assert batch.seen.grids.tolist() == GRIDS == [list(subject.grid_of(one.size)) for one in PICTURES]
    for row, prompt in enumerate(PROMPTS):
        ids = inputs_of(subject, published, prompt, PICTURES[row])["input_ids"][0].tolist()
        assert rows_of(batch)[row] == ids
    assert subject.lengths(PROMPTS, [p.size for p in PICTURES]) == (batch.last + 1).tolist()


def test_breaks_are_neither_image_nor_text_and_the_end_is_text(subject, batch):
    ids = subject.tokenizer.convert_tokens_to_ids(["[IMG_BREAK]", "[IMG_END]"])
    told = subject.types(PROMPTS, [picture.size for picture in PICTURES])
    for row, (rows, columns) in enumerate(GRIDS):
        types = batch.token_type[row].tolist()
        first, length = types.index(IMAGE), int(batch.last[row]) + 1
        end = first + rows * (columns + 1) - 1
        assert types[first:end] == ([*[IMAGE] * columns, BREAK] * rows)[:-1]
        assert batch.input_ids[row, end] == ids[1]
        assert types[0] == BOS and set(types[1:first]) == {TEXT} == set(types[end:length])
        assert set(types[length:]) <= {PADDING}
        assert told[row] == types[:length]
        assert torch.equal(batch.token_type[row] == BREAK, batch.input_ids[row] == ids[0])
        after = text_after_image(batch)[row].nonzero().flatten().tolist()
        assert after == list(range(end, length))


@pytest.mark.parametrize("size", [(640, 480), (31, 400), (300, 29), (57, 83), (96, 97), (3, 40), (17, 16)])
def test_the_grid_is_known_without_opening_the_picture(subject, size):
    grid = subject.grid_of(size)
    assert subject.see([Image.new("RGB", size)]).grids.tolist() == [list(grid)]
    assert max(grid) * tiny.SIDE <= tiny.LONGEST


@pytest.mark.parametrize("size", [(640, 480), (57, 83)])
def test_limits_of_height_and_width_are_read_as_well(folder, tmp_path, size):
    """As transformers' processor reads them, in the place of a longest edge."""
    other = shutil.copytree(folder, tmp_path / folder.name)
    file = other / "preprocessor_config.json"
    limits = {"height": 64, "width": 96}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"size": limits}))
    subject = load(other)
    (rows, columns), picture = subject.grid_of(size), Image.new("RGB", size)
    assert subject.prepare(PROMPTS[:1], [picture]).seen.grids.tolist() == [[rows, columns]]
    assert rows * tiny.SIDE <= 64 and columns * tiny.SIDE <= 96


def test_residuals_logits_and_images_are_those_of_transformers(subject, batch, published):
    residuals, logits = subject.residuals(batch, [0, 1, 2]), subject.final_logits(batch)
    shown = batch.seen.features.split([rows * columns for rows, columns in GRIDS])
    for row, prompt in enumerate(PROMPTS):
        inputs = inputs_of(subject, published, prompt, PICTURES[row])
        output = subject.model(**inputs, output_hidden_states=True)
        length = inputs["input_ids"].shape[1]
        torch.testing.assert_close(shown[row], output.image_hidden_states, **checks.CLOSE)
        for layer in (0, 1):
            states = output.hidden_states[layer + 1][0]
            torch.testing.assert_close(residuals[layer][row, :length], states, **checks.CLOSE)
        last = subject.norm(residuals[2])[row, :length]
        torch.testing.assert_close(last, output.hidden_states[3][0], **checks.CLOSE)
        torch.testing.assert_close(logits[row], output.logits[0, -1], **checks.CLOSE)


def test_a_picture_is_seen_alone_in_any_company(subject, batch):
    """Transformers pads pictures of a batch; ours are bit for bit those of one picture."""
    alone = torch.cat([subject.see([picture]).features for picture in PICTURES])
    assert torch.equal(batch.seen.features, alone)
    pixels = subject.read(PICTURES)
    together = subject.model.get_image_features(
        pixels.pixel_values, image_sizes=pixels.image_sizes, return_dict=True
    )
    torch.testing.assert_close(torch.cat(together.pooler_output), alone, **checks.CLOSE)


def test_token_rows_and_columns_are_those_of_the_picture(subject, kind):
    """A change in the tower's patch (row, column) shows in the token of its square, and in no other."""
    tower, before = subject.model.model.vision_tower, subject.see(PICTURES[:1]).features
    (rows, columns), merge = GRIDS[0], tiny.MERGES[kind]
    for row, column in [(0, merge * columns - 1), (merge * rows - 1, 0), (merge, merge)]:

        def bump(output, place=merge * columns * row + column):
            output.last_hidden_state[:, place] += 1
            changed = output.hidden_states[-1].clone()
            changed[:, place] += 1
            output.hidden_states = (*output.hidden_states[:-1], changed)
            return output

        with edit_output(tower, bump):
            moved = (subject.see(PICTURES[:1]).features - before).abs().amax(dim=1)
        assert moved.nonzero().flatten().tolist() == [columns * (row // merge) + column // merge]


def test_padding_changes_nothing(subject):
    checks.check_padding_changes_nothing(subject, PROMPTS, PICTURES)
    checks.check_padding_changes_nothing(subject, PROMPTS, [None, PICTURES[1]])


def test_own_words_are_those_of_greedy_generation(subject, batch, published):
    inputs = [inputs_of(subject, published, prompt, PICTURES[row]) for row, prompt in enumerate(PROMPTS)]
    checks.check_generation(subject, batch, subject.model, inputs)


def test_attention_implementations_agree(folder):
    eager, other = load(folder), load(folder, attention="sdpa")
    batch = eager.prepare(PROMPTS, PICTURES)
    torch.testing.assert_close(other.final_logits(batch), eager.final_logits(batch), **checks.CLOSE)


def test_heads_restart_and_ablation(subject, batch):
    checks.check_heads(subject, batch, 1)
    checks.check_restart(subject, batch)
    checks.check_prefix(subject, batch)
    checks.check_ablation(subject, batch, 1)


def test_an_ablation_leaves_breaks_as_they_are(subject, batch):
    from vlmdiff.interventions.feature_ablation import plan_ablation

    direction = checks.random_direction(7)
    ablation = plan_ablation(subject, {(1, 0): direction}, [(1, 0)], "own_layer")
    clean = subject.residuals(batch, [1])[1]
    with ablation.at(ablation.tokens(batch)):
        ablated = subject.residuals(batch, [1])[1]
    breaks = batch.token_type == BREAK
    assert breaks.sum() == 8 and torch.equal(ablated[breaks], clean[breaks])


def test_heads_are_patched_and_attributed_as_by_hand(subject, runs):
    checks.check_patching(subject, runs)
    checks.check_attribution(subject, runs)


def test_a_shard_holds_what_the_model_computes_but_for_breaks(subject, tmp_path):
    samples = checks.question_samples(tmp_path, PICTURES)
    checks.check_extraction(subject, samples, tmp_path / "shard.h5")


def test_the_mean_image_of_differing_pictures_is_one_token(subject, runs, tmp_path):
    samples = checks.question_samples(tmp_path, PICTURES)
    mean = mean_image(subject, samples, 400)
    assert mean.positions is None
    for run in runs:
        is_image = run.batch.token_type == IMAGE
        assert torch.equal(run.corrupt[~is_image], run.clean[~is_image])
        torch.testing.assert_close(run.corrupt[is_image][0], run.corrupt[is_image][-1])


def test_text_needs_no_picture(subject, published):
    batch = subject.prepare(["A cat."], [None], as_chat=False)
    assert batch.input_ids[0].tolist() == subject.tokenizer.encode("A cat.")
    assert batch.token_type[0].tolist() == [BOS] + [TEXT] * int(batch.last)
    document = subject.rows(["A cat."], [PICTURES[1].size], as_chat=False)[0]
    image = published.replace_image_token({"image_sizes": [(96, 32)]}, 0)
    assert document == subject.tokenizer.encode(f"{image}A cat.")


def test_the_language_model_alone(folder):
    whole, alone = load(folder), load(folder, text_only=True)
    batch = alone.prepare(PROMPTS, PICTURES)
    assert {IMAGE, BREAK}.isdisjoint(batch.token_type.unique().tolist())
    expected = whole.final_logits(whole.prepare(PROMPTS, [None, None]))
    assert torch.equal(alone.final_logits(batch), expected)


def test_what_a_user_writes_is_no_mark(subject):
    with pytest.raises(PromptError, match=r"remove '\[IMG\]' from the prompts"):
        subject.prepare(["What is [IMG]?"], PICTURES[:1])
    written = subject.prepare(["Why [IMG_BREAK] and [IMG_END]?"], [None])
    assert (written.token_type != BREAK).all()
    assert subject.end_id not in written.input_ids


def test_two_pictures_in_a_prompt_are_refused(folder, tmp_path):
    two = shutil.copytree(folder, tmp_path / "two")
    template = two / "chat_template.jinja"
    template.write_text(template.read_text().replace("'[IMG]'", "'[IMG][IMG]'"))
    with pytest.raises(PromptError, match="found 2 image placeholders in a prompt with 1 images; correct"):
        load(two).prepare(PROMPTS[:1], PICTURES[:1])


def test_a_tokenizer_without_the_marks_is_refused(folder, tmp_path):
    wrong = shutil.copytree(folder, tmp_path / "wrong")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        text = (wrong / file).read_text()
        (wrong / file).write_text(text.replace("[IMG_BREAK]", "[OTHER]"))
    with pytest.raises(SubjectError, match=r"its tokenizer lacks \[IMG_BREAK\], which stand behind an image"):
        load(wrong)


def test_the_first_tokenizers_cut_words_as_the_model_was_trained(tmp_path):
    """Files of transformers 4 hold another rule; transformers mends it in large ones, if it is asked to."""
    folder, cut = tiny.build(tmp_path / "vlm"), []
    values = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = values["model"]["vocab"]
    vocabulary |= {f"word {index}": index for index in range(len(vocabulary), 100_001)}
    (folder / "tokenizer.json").write_text(json.dumps(values))
    described = json.loads((folder / "config.json").read_text())
    for version in (described["transformers_version"], "4.50.0.dev0"):
        (folder / "config.json").write_text(json.dumps(described | {"transformers_version": version}))
        rule = load(folder).tokenizer.backend_tokenizer.pre_tokenizer
        cut.append([word for word, _ in rule.pre_tokenize_str("leftOf 12")])
    assert cut == [["leftOf", "Ġ12"], ["left", "Of", "Ġ", "1", "2"]]


def test_ministral_3_is_read_too(tmp_path):
    """Its language model scales queries by their place."""
    subject = load(tiny.build(tmp_path / "vlm", kind="ministral3"))
    batch, pixels = subject.prepare(PROMPTS[:1], PICTURES[:1]), subject.read(PICTURES[:1])
    output = subject.model(input_ids=batch.input_ids, **pixels, output_hidden_states=True)
    torch.testing.assert_close(subject.final_logits(batch)[0], output.logits[0, -1], **checks.CLOSE)
    torch.testing.assert_close(
        subject.residuals(batch, [0])[0][0], output.hidden_states[1][0], **checks.CLOSE
    )
    checks.check_restart(subject, batch)
    checks.check_prefix(subject, batch)
    checks.check_heads(subject, batch, 1)
