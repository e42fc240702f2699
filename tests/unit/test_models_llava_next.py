"""LLaVA-NeXT, LLaVA-OneVision and llava-interleave: one view of a picture, as transformers has it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import family_checks as checks
import pytest
import tiny_llava_next as tiny
import torch
from PIL import Image

from vlmdiff.activations.tokens import BOS, IMAGE, PADDING, TEXT
from vlmdiff.data.batching import prepare_batches
from vlmdiff.data.samples import DataError, make_sample
from vlmdiff.explorer.examples import UNPLACED, token_rows
from vlmdiff.heads.attention import patch_grid
from vlmdiff.models.describe import rows_of
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.registry import load_subject

PROMPTS = ["Where is the cat?", "Is the following statement correct? The dog is left of the car. Yes or No?"]
PICTURES = [
    Image.linear_gradient("L").convert("RGB").resize((60, 40)),
    Image.radial_gradient("L").convert("RGB").resize((40, 200)),
]
PATCHES = 9
WRITTEN = {
    "llava_next": "<s>[INST] {image}\n{prompt} [/INST]",
    "llava_onevision": "<|im_start|>user\n{image}\n{prompt}<|im_end|>\n<|im_start|>assistant\n",
    "interleave": "<|im_start|>user\n{image}\n{prompt}<|im_end|>\n<|im_start|>assistant\n",
}


def load(folder, **changes):
    family = "llava" if folder.name == "interleave" else "llava_next"
    return load_subject(folder.name, {"family": family, "attention": "eager", **changes}, folder, "cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("llava")
    return {kind: tiny.build(root / kind, layers=3, kind=kind) for kind in tiny.CLASSES}


@pytest.fixture(scope="module", params=tiny.CLASSES)
def folder(request, folders):
    return folders[request.param]


@pytest.fixture(scope="module")
def subject(folder):
    return load(folder)


@pytest.fixture(scope="module")
def onevision(folders):
    return load(folders["llava_onevision"])


@pytest.fixture(scope="module")
def batch(subject):
    return subject.prepare(PROMPTS, PICTURES)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return checks.question_samples(tmp_path_factory.mktemp("samples"), PICTURES)


@pytest.fixture(scope="module")
def runs(subject, samples):
    return checks.runs_of(subject, samples)


def transformers_model(folder, **changes):
    """Load a checkpoint as transformers does; `changes` of its configuration."""
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager", **changes).eval()


@pytest.fixture(scope="module")
def reference(folder):
    """What transformers makes of the checkpoint, told that no picture has tiles."""
    tiles = {} if folder.name == "interleave" else {"image_grid_pinpoints": [[0, 0]]}
    return transformers_model(folder, **tiles)


def published_processor(folder):
    """Make the published processor of a checkpoint; OneVision's without its reader of videos."""
    from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, LlavaOnevisionProcessor

    if folder.name != "llava_onevision":
        return AutoProcessor.from_pretrained(folder)

    class WithoutVideos(LlavaOnevisionProcessor):
        """It takes None for the part that needs torchvision."""

        def check_argument_for_proper_class(self, argument_name, argument):
            if argument_name == "video_processor":
                return type(argument)
            return super().check_argument_for_proper_class(argument_name, argument)

    values = json.loads((folder / "processor_config.json").read_text())
    values.pop("processor_class")
    images, tokenizer = (one.from_pretrained(folder) for one in (AutoImageProcessor, AutoTokenizer))
    return WithoutVideos(images, tokenizer, None, chat_template=tiny.QWEN, **values)


def inputs_of(folder, prompt, picture):
    """Write a sample's inputs by hand: template, expanded placeholder, the first of all views."""
    from transformers import AutoImageProcessor, AutoTokenizer

    newline = folder.name != "interleave"
    text = WRITTEN[folder.name].format(image="<image>" * (PATCHES + newline), prompt=prompt)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pixels = AutoImageProcessor.from_pretrained(folder)([picture], return_tensors="pt")
    views = pixels["pixel_values"][:, :1] if newline else pixels["pixel_values"]
    sizes = {"image_sizes": pixels["image_sizes"]} if newline else {}
    ids = tokenizer([text], return_tensors="pt", add_special_tokens=False)["input_ids"]
    return {"input_ids": ids, "pixel_values": views, **sizes}


def without_repeats(ids, image_id):
    """Return token ids with one placeholder in the place of many."""
    pairs = zip([None, *ids], ids)
    return [token for before, token in pairs if not before == token == image_id]


def test_the_checkpoint_is_as_published(folder):
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 1
    parts = {name.partition(".")[0] for name in index}
    whole = {"language_model", "vision_tower", "multi_modal_projector", "image_newline"}
    assert parts == (whole if folder.name != "interleave" else whole - {"image_newline"})
    assert "vision_tower.vision_model.embeddings.patch_embedding.weight" in index
    described = json.loads((folder / "config.json").read_text())
    assert described["model_type"] == {"interleave": "llava"}.get(folder.name, folder.name)
    assert described.get("image_grid_pinpoints") == (None if folder.name == "interleave" else tiny.TILES)


def test_inputs_are_those_of_the_published_processor(folder, subject, batch):
    """But for the tokens of tiles, which are left out."""
    processor = published_processor(folder)
    for row, prompt in enumerate(PROMPTS):
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        made = processor(text=[text], images=[PICTURES[row]], return_tensors="pt")
        expected = inputs_of(folder, prompt, PICTURES[row])
        theirs, ours = made.input_ids[0].tolist(), rows_of(batch)[row]
        assert ours == expected["input_ids"][0].tolist()
        read = subject.read([PICTURES[row]]).pixel_values
        assert torch.equal(read, expected["pixel_values"])
        if folder.name == "interleave":
            assert ours == theirs
            assert torch.equal(read, made.pixel_values)
        else:
            assert without_repeats(ours, subject.image_id) == without_repeats(theirs, subject.image_id)
            assert theirs.count(subject.image_id) > ours.count(subject.image_id) == PATCHES + 1
            assert made.pixel_values.shape[1] > 1
            assert torch.equal(read, made.pixel_values[:, :1])


def test_onevision_sees_one_picture_as_it_sees_each_of_several(folders, onevision):
    """Several have no tiles: what its processor writes, and what its model makes of their pixels."""
    folder = folders["llava_onevision"]
    processor, asked = published_processor(folder), PROMPTS[0]
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": asked}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    made = processor(text=[text], images=[PICTURES], return_tensors="pt").input_ids[0].tolist()
    own = onevision.rows([asked], [PICTURES[0].size])[0]
    assert made.count(onevision.image_id) == 2 * own.count(onevision.image_id)
    pixels = onevision.read(PICTURES)
    with torch.no_grad():
        expected = transformers_model(folder).get_image_features(
            pixels.pixel_values, pixels.image_sizes, batch_num_images=torch.tensor([2]), return_dict=True
        )
    found = onevision.see(PICTURES)
    assert torch.equal(found.features, torch.cat(list(expected.pooler_output)))
    assert (found.counts, found.grids.tolist()) == ([PATCHES + 1] * 2, [[3, 3]] * 2)


@pytest.mark.parametrize("kind", ["llava_next", "llava_onevision"])
def test_the_view_is_the_first_of_what_transformers_shows_with_tiles(folders, kind):
    """Its tokens come first there, and the newline that ends ours ends the last row of tiles."""
    from transformers import AutoImageProcessor

    pixels = AutoImageProcessor.from_pretrained(folders[kind])(PICTURES, return_tensors="pt")
    whole = transformers_model(folders[kind])
    with torch.no_grad():
        expected = whole.get_image_features(pixels.pixel_values, pixels.image_sizes, return_dict=True)
    found = load(folders[kind]).see(PICTURES).features.split(PATCHES + 1)
    for ours, theirs in zip(found, expected.pooler_output, strict=True):
        assert len(theirs) > 2 * PATCHES
        torch.testing.assert_close(ours[:-1], theirs[:PATCHES], **checks.CLOSE)
        assert torch.equal(ours[-1], theirs[-1])
        assert torch.equal(ours[-1], whole.model.image_newline)


def test_a_picture_has_as_many_tokens_as_are_counted(folder, subject, batch):
    newline = int(folder.name != "interleave")
    assert subject.unplaced == batch.seen.unplaced == newline
    assert batch.seen.grids.tolist() == [[3, 3], [3, 3]]
    assert batch.seen.counts == [PATCHES + newline] * 2
    first = 0 if folder.name != "llava_next" else 1
    for row, ids in enumerate(rows_of(batch)):
        types = batch.token_type[row].tolist()
        at = ids.index(subject.image_id)
        end = at + PATCHES + newline
        assert types[:1] == [BOS] and types[at:end] == [IMAGE] * (PATCHES + newline)
        assert set(types[1:at]) | set(types[end : len(ids)]) == {TEXT}
        assert set(types[len(ids) :]) <= {PADDING}
        assert (ids[0] == subject.tokenizer.bos_token_id) == bool(first)
    assert subject.lengths(PROMPTS, [p.size for p in PICTURES]) == (batch.last + 1).tolist()


def test_residuals_logits_and_images_are_those_of_transformers(folder, subject, batch, reference):
    residuals, logits = subject.residuals(batch, [0, 1, 2]), subject.final_logits(batch)
    shown = batch.seen.features.split(batch.seen.counts)
    for row, prompt in enumerate(PROMPTS):
        inputs = inputs_of(folder, prompt, PICTURES[row])
        with torch.no_grad():
            output = reference(**inputs, output_hidden_states=True)
        length = inputs["input_ids"].shape[1]
        torch.testing.assert_close(shown[row], output.image_hidden_states, **checks.CLOSE)
        for layer in (0, 1):
            states = output.hidden_states[layer + 1][0]
            torch.testing.assert_close(residuals[layer][row, :length], states, **checks.CLOSE)
        last = subject.decoder.norm(residuals[2])[row, :length]
        torch.testing.assert_close(last, output.hidden_states[3][0], **checks.CLOSE)
        torch.testing.assert_close(logits[row], output.logits[0, -1], **checks.CLOSE)


def test_own_words_are_those_of_greedy_generation(folder, subject, batch, reference):
    inputs = [inputs_of(folder, prompt, PICTURES[row]) for row, prompt in enumerate(PROMPTS)]
    checks.check_generation(subject, batch, reference, inputs)


def test_the_view_covers_the_whole_picture(subject):
    """What lies at the very ends of a wide picture, where a crop would cut it off, is seen."""
    wide = Image.new("RGB", (120, 40), "black")
    assert subject.view_of(wide.size) == (0.0, 0.0, 1.0, 1.0)
    for box, column in (((0, 0, 12, 40), 0), ((108, 0, 120, 40), -1)):
        marked = wide.copy()
        marked.paste("white", box)
        before, after = (subject.read([one]).pixel_values.flatten(0, -4) for one in (wide, marked))
        brighter = (after - before).mean(dim=(0, 1, 2))
        assert brighter[column] > 0.5 * brighter.max()
        assert (brighter > 0.5 * brighter.max()).float().mean() == pytest.approx(0.1, abs=0.03)


def test_padding_changes_nothing(subject):
    checks.check_padding_changes_nothing(subject, PROMPTS, PICTURES)
    checks.check_padding_changes_nothing(subject, PROMPTS, [None, PICTURES[1]])


def test_attention_implementations_agree(folder, subject, batch):
    other = load(folder, attention="sdpa")
    torch.testing.assert_close(other.final_logits(batch), subject.final_logits(batch), **checks.CLOSE)


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


def test_the_mean_image_ends_with_the_newline(onevision, samples):
    """Patches are those of a mean over pictures, position by position; what ends them is the same in all."""
    run = checks.runs_of(onevision, samples)[0]
    image = run.batch.token_type[0] == IMAGE
    clean, corrupt = run.clean[0, image], run.corrupt[0, image]
    both = onevision.see(PICTURES).features.view(2, PATCHES + 1, -1)
    torch.testing.assert_close(corrupt, both.mean(dim=0), **checks.CLOSE)
    assert (clean - corrupt)[:-1].abs().amax(dim=1).min() > 1e-3
    torch.testing.assert_close(clean[-1], corrupt[-1], **checks.CLOSE)


def test_patches_have_their_places_and_the_newline_none(onevision, samples):
    batch = next(prepare_batches(onevision, samples[:1], 1))[1]
    weights = torch.arange(float(batch.token_type.shape[1]))
    first = int((batch.token_type[0] == IMAGE).nonzero()[0, 0])
    drawn = patch_grid(weights, batch)
    assert drawn.tolist() == (first + torch.arange(PATCHES).view(3, 3)).tolist()
    rows = token_rows(onevision, samples[:1], 1)
    patches = rows[rows["left"].notna()]
    assert list(patches["position"]) == list(range(first, first + PATCHES))
    assert patches.iloc[-1][["left", "top", "right", "bottom"]].tolist() == pytest.approx(
        [2 / 3, 2 / 3, 1, 1]
    )
    assert rows.set_index("position")["text"][first + PATCHES] == UNPLACED
    assert (rows["text"] == UNPLACED).sum() == 1


def test_a_shard_holds_what_the_model_computes(subject, samples, tmp_path):
    checks.check_extraction(subject, samples, tmp_path / "shard.h5")


def test_text_needs_no_picture(folder, subject):
    batch = subject.prepare(["A cat."], [None], as_chat=False)
    own = [subject.tokenizer.bos_token_id] if folder.name == "llava_next" else []
    plain = subject.tokenizer("A cat.", add_special_tokens=False)["input_ids"]
    assert batch.input_ids[0].tolist() == own + plain
    asked = subject.tokenizer.decode(subject.prepare(PROMPTS[:1], [None]).input_ids[0])
    assert asked == WRITTEN[folder.name].replace("{image}\n", "").format(prompt=PROMPTS[0])


def test_the_language_model_alone(folder, subject):
    alone = load(folder, text_only=True)
    batch = alone.prepare(PROMPTS, PICTURES)
    assert IMAGE not in batch.token_type
    expected = subject.final_logits(subject.prepare(PROMPTS, [None, None]))
    assert torch.equal(alone.final_logits(batch), expected)


def test_a_placeholder_in_a_prompt_is_refused(subject):
    with pytest.raises(SubjectError, match="found its image placeholder .*remove '<image>' from the prompts"):
        subject.prepare(["What is <image>?"], PICTURES[:1])


def test_videos_and_several_pictures_are_refused(onevision):
    said = "found its video placeholder in the prompt, expected none, because a sample shows one picture"
    with pytest.raises(SubjectError, match=f"{said} or none; remove '<video>'"):
        onevision.prepare(["What happens in <video>?"], [None])
    shown_twice = onevision.chat.template.replace("<image>\n", "<image><image>\n")
    chat = replace(onevision.chat, template=shown_twice)
    other = load_like(onevision, chat)
    with pytest.raises(SubjectError, match="found 2 image placeholders in a prompt with 1 images"):
        other.prepare(PROMPTS[:1], PICTURES[:1])
    values = {"sample_id": "s", "prompt": "Where?", "group": "g", "image": ["0.png", "1.png"]}
    with pytest.raises(DataError, match=r"image: .*\['0.png', '1.png'\]"):
        make_sample(values)


def load_like(subject, chat):
    """Return the same subject with another chat template."""
    other = type(subject)(
        subject.name, subject.model, subject.processor, subject.fingerprint, subject.image_id
    )
    other.chat = chat
    return other


def test_a_processor_of_another_size_is_refused(folder, tmp_path):
    wrong = shutil.copytree(folder, tmp_path / folder.name)
    file = wrong / "preprocessor_config.json"
    square = {"height": 50, "width": 50}
    values = json.loads(file.read_text())
    values |= {"size": square, "crop_size": square if values.get("crop_size") else None}
    file.write_text(json.dumps(values))
    with pytest.raises(SubjectError, match="it cannot see even a blank picture of 38 x 38 pixels"):
        load(wrong)


def test_a_tokenizer_without_the_video_placeholder_is_read(folders, tmp_path):
    """As the first ones of OneVision were published."""
    old = shutil.copytree(folders["llava_onevision"], tmp_path / "llava_onevision")
    values = json.loads((old / "config.json").read_text()) | {"video_token_index": 10_000}
    (old / "config.json").write_text(json.dumps(values))
    assert list(load(old).placeholders) == ["<image>"]
