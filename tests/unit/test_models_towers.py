"""Counts of image tokens come from the tower; features of a sample lie at its own image's places."""

from __future__ import annotations

import json
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
from PIL import Image
from transformers import (
    AutoConfig,
    BitImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    SiglipImageProcessorPil,
)

from vlmdiff.activations.tokens import IMAGE
from vlmdiff.data.batching import prepare_batches, token_rows
from vlmdiff.data.samples import Sample
from vlmdiff.models import registry
from vlmdiff.models.errors import PromptError, SubjectError, showing
from vlmdiff.models.llava import Llava
from vlmdiff.models.llava_original import padded_to_square
from vlmdiff.models.registry import load_subject

PROMPTS = [
    "what colour is the circle ?",
    "the red circle is left of the blue square ?",
    "describe this image .",
]
TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": tiny_models.IMAGE_PIXELS,
    "patch_size": tiny_models.PATCH_PIXELS,
    "initializer_range": 0.2,
}
# Tower, selected features, and the grid of nine patches with what is beside them.
TOWERS = {
    "clip": ("clip_vision_model", {}, "default", (3, 3)),
    "clip with cls": ("clip_vision_model", {}, "full", (1, 10)),
    "siglip": ("siglip_vision_model", {}, "full", (3, 3)),
    "siglip without its first patch": ("siglip_vision_model", {}, "default", (1, 8)),
    "dinov2": ("dinov2", {}, "default", (3, 3)),
    "dinov2 with registers": ("dinov2_with_registers", {"num_register_tokens": 4}, "default", (1, 13)),
    "all of dinov2": ("dinov2_with_registers", {"num_register_tokens": 4}, "full", (1, 14)),
}


def build(folder: Path, kind: str, values: dict, strategy: str) -> Path:
    """Save a random LLaVA with a tower of some kind; its files say nine tokens an image."""
    tokenizer = tiny_models.tiny_tokenizer()
    config = LlavaConfig(
        vision_config=AutoConfig.for_model(kind, **TOWER, **values),
        text_config=tiny_models.tiny_text_config(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=9,
        vision_feature_layer=-1,
        vision_feature_select_strategy=strategy,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
        for parameter in model.model.vision_tower.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tiny_models.tiny_processor(tokenizer).save_pretrained(folder)
    return folder


def pictures(count: int) -> list[Image.Image]:
    """Return pictures that no tower takes for one another."""
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 36, 36, 3), generator=noise, dtype=torch.uint8).numpy()
    return [Image.fromarray(one) for one in pixels]


def check_alignment(subject, prompts, images) -> None:
    """What the tower makes of a sample's own image stands at its own places, in whatever company."""
    batch = subject.prepare(prompts, images)
    embeds = subject.embed(batch)
    for row, image in enumerate(images):
        places = batch.token_type[row] == IMAGE
        if image is None:
            assert not places.any()
            continue
        expected = subject.see([image]).features
        torch.testing.assert_close(embeds[row, places], expected.to(embeds), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", TOWERS)
def test_features_of_any_tower_are_where_they_belong(name, tmp_path):
    kind, values, strategy, grid = TOWERS[name]
    subject = load_subject("vlm", {"family": "llava"}, build(tmp_path, kind, values, strategy), "cpu")
    images = pictures(3)
    images[1] = None
    assert subject.grid_of((36, 36)) == grid
    assert subject.rows(PROMPTS[:1], [(36, 36)])[0].count(subject.image_id) == grid[0] * grid[1]
    batch = subject.prepare(PROMPTS, images)
    assert batch.seen.grids.tolist() == [list(grid)] * 2
    check_alignment(subject, PROMPTS, images)
    inputs = subject.processor.image_processor([images[0]], return_tensors="pt")
    own = subject.model.get_image_features(inputs.pixel_values, return_dict=True).pooler_output[0]
    torch.testing.assert_close(batch.seen.features[: len(own)], own)


def test_a_siglip_processor_shows_the_whole_picture(tmp_path):
    """As llava-interleave has it: resized to the tower's square, never cropped."""
    folder = build(tmp_path, "siglip_vision_model", {}, "full")
    subject = load_subject("vlm", {"family": "llava"}, folder, "cpu")
    subject.processor.image_processor = SiglipImageProcessorPil(size={"height": 36, "width": 36})
    wide = pictures(1)[0].resize((90, 40))
    batch = subject.prepare(PROMPTS[:1], [wide])
    assert batch.seen.grids.tolist() == [[3, 3]]
    assert subject.view_of(wide.size) == (0.0, 0.0, 1.0, 1.0)


SQUARE = {"height": 36, "width": 36}
READERS = {
    "dinov2": (BitImageProcessorPil, {"size": {"shortest_edge": 48}}, (0.3125, 0.125, 0.6875, 0.875)),
    "squeezed": (BitImageProcessorPil, {"size": {"height": 48, "width": 48}}, (0.125, 0.125, 0.875, 0.875)),
    "as it is": (BitImageProcessorPil, {"do_resize": False}, (0.41, 0.32, 0.59, 0.68)),
    "padded": (
        LlavaImageProcessorPil,
        {"size": {"shortest_edge": 48}, "do_pad": True},
        (0.125, -0.25, 0.875, 1.25),
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_a_crop_that_leaves_the_edges_out_is_where_it_is_said(tmp_path, name):
    """As Dinov2's cuts 224 of 256 pixels: what lies just outside changes nothing, inside it does."""
    subject = load_subject("vlm", {"family": "llava"}, build(tmp_path, "dinov2", {}, "default"), "cpu")
    reader, values, expected = READERS[name]
    subject.processor.image_processor = reader(**values, crop_size=SQUARE, do_convert_rgb=True)
    wide = Image.new("RGB", (200, 100), "black")
    left, top, right, bottom = subject.view_of(wide.size)
    assert (left, top, right, bottom) == pytest.approx(expected)
    before = subject.read([wide]).pixel_values
    edges = [round(edge * side) for edge, side in zip((left, top, right, bottom), (200, 100) * 2)]
    for at, (out, into) in enumerate(((-8, 4), (-8, 4), (8, -4), (8, -4))):
        # A padded picture ends before the upper and lower edge.
        for shift, seen in () if name == "padded" and at % 2 else ((out, False), (into, True)):
            marked, line = wide.copy(), [0, 0, 200, 100]
            line[at % 2], line[at % 2 + 2] = edges[at] + shift - 1, edges[at] + shift + 1
            marked.paste("white", tuple(line))
            assert bool((subject.read([marked]).pixel_values - before).abs().max() > 0.1) == seen


def test_a_picture_that_is_padded_and_not_cropped_lies_within_its_square(tmp_path):
    subject = load_subject("vlm", {"family": "llava"}, build(tmp_path, "dinov2", {}, "default"), "cpu")
    subject.processor.image_processor = LlavaImageProcessorPil(size=SQUARE, do_pad=True, do_center_crop=False)
    assert subject.view_of((60, 40)) == pytest.approx((0.0, -0.25, 1.0, 1.25))
    assert subject.prepare(PROMPTS[:1], [Image.new("RGB", (60, 40))]).seen.grids.tolist() == [[3, 3]]


def test_a_tower_of_many_sizes_is_of_another_family(tmp_path):
    folder = build(tmp_path, "pixtral", {"head_dim": 8}, "full")
    with pytest.raises(SubjectError, match="has 'llava with a pixtral tower'; use family pixtral"):
        load_subject("vlm", {"family": "llava"}, folder, "cpu")


BUILDERS = {
    "llava": (tiny_models.build_tiny_vlm, {}),
    "llava_next": (tiny_llava_next.build, {}),
    "llava_original": (tiny_llava_original.build, {}),
    "paligemma": (tiny_paligemma.build, {"attention": "eager"}),
    "pixtral": (tiny_pixtral.build, {}),
    "qwen_vl": (tiny_qwen_vl.build, {}),
    "internvl": (tiny_internvl.build, {}),
    "idefics3": (tiny_smolvlm.build, {}),
    "gemma3": (tiny_gemma3.build, {}),
}


@pytest.fixture(scope="module", params=BUILDERS)
def subject(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    build_family, spec = BUILDERS[request.param]
    spec = {"family": request.param, **spec}
    if request.param == "llava_original":
        spec["vision_tower"] = str(tiny_llava_original.build_tower(root / "tower"))
    return load_subject("vlm", spec, build_family(root / "vlm"), "cpu")


def shown(subject) -> list[Image.Image]:
    """Return pictures of several shapes, where a family reads them."""
    images = pictures(2)
    wide = images[1] if subject.__class__.__name__ == "Llava" else images[1].resize((84, 56))
    return [images[0], wide]


def test_every_family_aligns_images_with_their_samples(subject):
    images = shown(subject)
    check_alignment(subject, PROMPTS, [images[0], None, images[1]])
    check_alignment(subject, PROMPTS, [images[1], images[0], images[1]])


def test_every_family_refuses_more_or_fewer_places_than_tokens(subject):
    """Also where two samples' mistakes cancel, so that all places together are as many as all tokens."""
    images = shown(subject)
    first, second = subject.rows(PROMPTS[:2], [image.size for image in images])
    place = second.index(subject.image_id)
    longer, shorter = [*second[:place], subject.image_id, *second[place:]], list(first)
    shorter.remove(subject.image_id)
    for rows, index in (([first, longer], 1), ([shorter, longer], 0), ([shorter, second], 0)):
        with pytest.raises(
            PromptError, match="its tower makes .* tokens of the picture, .* places for"
        ) as caught:
            subject.assemble(rows, images)
        assert caught.value.index == index
    with pytest.raises(PromptError, match="its tower makes 0 tokens"):
        subject.assemble([first, second], [images[0], None])


def test_a_processor_that_cuts_pictures_otherwise_is_refused(tmp_path):
    """A Dinov2 takes pictures of any size: files of another checkpoint make it see other tokens."""
    folder = build(tmp_path, "dinov2", {}, "default")
    subject = load_subject("vlm", {"family": "llava"}, folder, "cpu")
    with pytest.raises(PromptError, match="makes 12 tokens of the picture, its prompt has places for 9"):
        subject.prepare(PROMPTS[:1], [Image.new("RGB", (36, 48))])


def test_padding_puts_a_picture_into_the_middle_of_its_square():
    """Wide, high, of odd difference: by pixel, the first at the corner of none of them."""
    colour = (1, 2, 3)
    for size, corner in (((6, 2), (0, 2)), ((2, 6), (2, 0)), ((5, 2), (0, 1)), ((2, 5), (1, 0))):
        square = padded_to_square(Image.new("RGB", size, "white"), colour)
        assert square.size == (max(size), max(size))
        for x in range(square.width):
            for y in range(square.height):
                inside = corner[0] <= x < corner[0] + size[0] and corner[1] <= y < corner[1] + size[1]
                assert square.getpixel((x, y)) == ((255, 255, 255) if inside else colour)


def samples_of(folder: Path, prompts: list[str], images: list[Image.Image | None]) -> list[Sample]:
    """Save pictures, and return one sample a prompt."""
    found = []
    for index, (prompt, image) in enumerate(zip(prompts, images, strict=True)):
        name = None if image is None else f"{index}.png"
        if image is not None:
            image.save(folder / name)
        found.append(Sample(sample_id=f"s{index}", image=name, prompt=prompt, group="g", folder=folder))
    return found


def test_errors_name_the_sample_and_its_file(subject, tmp_path):
    line = Image.new("RGB", (402, 2))
    cases = {
        f"what is {subject.image_token} ?": (
            pictures(1)[0],
            f"remove '{subject.image_token}' from the prompts",
        ),
        "what is it ?": (line, "found a picture of 402 x 2 pixels, expected sides of at most 200 to 1"),
        "what ? " * 1200: (None, "tokens, expected at most"),
    }
    for prompt, (image, words) in cases.items():
        samples = samples_of(tmp_path, ["where is it ?", prompt], [None, image])
        with pytest.raises(SubjectError) as caught:
            token_rows(subject, samples)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / 'samples.jsonl'}: sample 's1'")
        assert words in message
        assert ("with image '1.png'" in message) == (image is not None)
        assert "\n" not in message


def test_a_picture_that_the_processor_refuses_is_named(subject, tmp_path, monkeypatch):
    """Whatever it says, in however many lines, and though the others of its batch are whole."""
    reader = type(subject.processor.image_processor)
    own, bad = reader.__call__, shown(subject)[0]

    def refusing(self, images, **values):
        # Idefics3 hands over a list of pictures a sample.
        pictures = [one for image in images for one in (image if isinstance(image, list) else [image])]
        if any(image.getpixel((0, 0)) == (9, 9, 9) for image in pictures):
            raise ValueError("mean must have 3 elements\nif it is an iterable")
        return own(self, images, **values)

    monkeypatch.setattr(reader, "__call__", refusing)
    black = Image.new("RGB", bad.size, (9, 9, 9))
    samples = samples_of(tmp_path, PROMPTS, [bad, black, bad])
    with pytest.raises(SubjectError) as caught:
        list(prepare_batches(subject, samples, 4096))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'samples.jsonl'}: sample 's1' with image '1.png': model 'vlm'")
    assert "(ValueError: mean must have 3 elements if it is an iterable); replace the picture" in message
    assert "\n" not in message


def test_a_tower_whose_patches_cannot_be_shuffled_is_refused(tmp_path):
    """Seven patches a side do not make pairs."""
    folder = tiny_internvl.build(tmp_path / "vlm")
    file = folder / "preprocessor_config.json"
    values = json.loads(file.read_text())
    values["size"] = {"height": 98, "width": 98}
    file.write_text(json.dumps(values))
    with pytest.raises(SubjectError, match=r"blank picture .*use the processor files that were published"):
        load_subject("vlm", {"family": "internvl"}, folder, "cpu")
    load_subject("vlm", {"family": "internvl", "text_only": True}, folder, "cpu")


def test_processor_files_of_another_tower_are_refused_when_the_model_is_loaded(tmp_path):
    folder = tiny_models.build_tiny_vlm(tmp_path)
    file = folder / "processor_config.json"
    values = json.loads(file.read_text())
    values["image_processor"] |= {"do_resize": True, "size": {"height": 24, "width": 24}}
    file.write_text(json.dumps(values))
    with pytest.raises(SubjectError) as caught:
        load_subject("vlm", {"family": "llava"}, folder, "cpu")
    message = str(caught.value)
    assert "model 'vlm': it cannot see even a blank picture of 36 x 36 pixels (ValueError: " in message
    assert "; use the processor files that were published with the checkpoint" in message
    assert "replace" not in message and "\n" not in message


def failing(error: Exception, fits=lambda image: False):
    """Return a reader of pictures that fails on those that do not fit."""

    def see(images):
        if not all(fits(image) for image in images):
            raise error

    return see


@pytest.mark.parametrize("error", [ValueError("24*24"), AttributeError("patch_size"), RuntimeError("shape")])
def test_a_processor_that_sees_nothing_is_to_blame_and_not_the_picture(subject, monkeypatch, error):
    image = shown(subject)[0]
    rows = subject.rows(PROMPTS[:1], [image.size])
    monkeypatch.setattr(subject, "see", failing(error))
    subject.__dict__.pop("probed_grid", None)
    calls = [lambda: subject.assemble(rows, [image])]
    if type(subject).grid_of is Llava.grid_of:
        calls.append(lambda: subject.rows(PROMPTS[:1], [image.size]))
    for call in calls:
        with pytest.raises(SubjectError, match="blank picture .*use the processor files") as caught:
            call()
        assert not isinstance(caught.value, PromptError)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
        RuntimeError("MPS backend out of memory"),
    ],
)
@pytest.mark.parametrize("blank_fits", [True, False])
def test_errors_of_the_machine_blame_nothing_else(subject, monkeypatch, error, blank_fits):
    image = shown(subject)[0]
    rows = subject.rows(PROMPTS[:1], [image.size])
    monkeypatch.setattr(subject, "see", failing(error, lambda one: blank_fits and one is not image))
    with pytest.raises(type(error)) as caught:
        subject.assemble(rows, [image])
    assert caught.value is error
    with pytest.raises(type(error)) as caught, showing("vlm", 0, "the prompt cannot be read", "correct it"):
        raise error
    assert caught.value is error


def test_a_model_that_does_not_fit_into_memory_is_not_blamed(tmp_path, monkeypatch):
    error, folder = torch.OutOfMemoryError("CUDA out of memory"), tiny_models.build_tiny_vlm(tmp_path)
    for place in ("verified", "check_vocabulary"):
        with monkeypatch.context() as patched, pytest.raises(torch.OutOfMemoryError) as caught:
            patched.setattr(registry, place, failing_always(error))
            load_subject("vlm", {"family": "llava"}, folder, "cpu")
        assert caught.value is error


def failing_always(error: Exception):
    """Return a function that fails, whatever it is given."""

    def fail(*_):
        raise error

    return fail
