"""The original LLaVA layout: every weight in its place, prompt and pictures as LLaVA-MORE has them."""

import json
import shutil

import pytest
import tiny_llava_original as tiny
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    CONFIG_MAPPING,
    AutoImageProcessor,
    AutoModelForCausalLM,
    Dinov2Config,
    SiglipVisionModel,
)

from vlmdiff.activations.tokens import BOS, IMAGE, TEXT
from vlmdiff.heads.head_values import head_values
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.llava_original import padded_to_square
from vlmdiff.models.registry import load_subject

PROMPTS = ["Where is the cat?", "Is the following statement correct? The dog is left of the car."]
PICTURES = [Image.new("RGB", (60, 40), "red"), Image.linear_gradient("L").convert("RGB").resize((40, 70))]
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("llava_original")
    return tiny.build(root / "vlm"), tiny.build_tower(root / "tower")


def load(folders, **changes):
    spec = {"family": "llava_original", "vision_tower": str(folders[1]), **changes}
    return load_subject("vlm", spec, folders[0], "cpu")


@pytest.fixture(scope="module")
def subject(folders):
    return load(folders)


def test_every_weight_is_where_it_belongs(subject, folders):
    given = {}
    for file in folders[0].glob("*.safetensors"):
        given |= load_file(file)
    model = subject.model
    decoder = {f"model.{name}": value for name, value in model.model.language_model.state_dict().items()}
    projector = model.model.multi_modal_projector
    found = decoder | {
        "lm_head.weight": model.lm_head.weight,
        "model.mm_projector.0.weight": projector.linear_1.weight,
        "model.mm_projector.0.bias": projector.linear_1.bias,
        "model.mm_projector.2.weight": projector.linear_2.weight,
        "model.mm_projector.2.bias": projector.linear_2.bias,
    }
    assert set(found) == set(given)
    assert all(torch.equal(found[name], given[name]) for name in given)
    tower = load_file(folders[1] / "model.safetensors")
    own = model.model.vision_tower.state_dict()
    assert len(own) == len(tower)
    assert sorted(float(v.double().sum()) for v in own.values()) == pytest.approx(
        sorted(float(v.double().sum()) for v in tower.values())
    )


def test_the_tower_is_read_two_layers_before_its_end_without_cls(subject):
    squares = [padded_to_square(picture, (122, 116, 104)) for picture in PICTURES]
    pixels = subject.processor.image_processor(squares, return_tensors="pt").pixel_values
    states = subject.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    projector = subject.model.model.multi_modal_projector
    expected = projector.linear_2(torch.nn.functional.gelu(projector.linear_1(states)))
    torch.testing.assert_close(subject.see(PICTURES).features, expected.flatten(0, 1), **CLOSE)


def test_prompt_is_the_llama_chat_with_the_image_before_the_question(subject):
    batch = subject.prepare(PROMPTS[:1], PICTURES[:1])
    words = subject.tokenizer.decode(batch.input_ids[0])
    placeholders = "<image>" * 9
    assert words.startswith(
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are a helpful"
    )
    assert words.endswith(
        f"<|start_header_id|>user<|end_header_id|>\n\n{placeholders}\nWhere is the cat?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    types = batch.token_type[0].tolist()
    assert types[0] == BOS
    assert types.count(IMAGE) == 9
    assert types.count(TEXT) == len(types) - 10
    assert subject.lengths(PROMPTS[:1], [(60, 40)]) == [len(types)]


@pytest.mark.parametrize("images", [PICTURES, [None, None]])
def test_residuals_and_logits_are_those_of_transformers(subject, images):
    batch = subject.prepare(PROMPTS, images)
    embeds = subject.embed(batch)
    output = subject.model(
        inputs_embeds=embeds, attention_mask=batch.attention_mask, output_hidden_states=True
    )
    residuals = subject.residuals(batch, [0, 1])
    torch.testing.assert_close(residuals[0], output.hidden_states[1], **CLOSE)
    torch.testing.assert_close(subject.decoder.norm(residuals[1]), output.hidden_states[2], **CLOSE)
    expected = output.logits[torch.arange(2), batch.last]
    torch.testing.assert_close(subject.final_logits(batch), expected, **CLOSE)
    for row, image in enumerate(images):
        alone = subject.prepare(PROMPTS[row : row + 1], [image])
        length = alone.input_ids.shape[1]
        torch.testing.assert_close(residuals[1][row, :length], subject.residuals(alone, [1])[1][0], **CLOSE)


def test_heads_are_slices_of_the_output_projections_input(folders):
    """With eager attention each slice is the head's weights times the values of its group."""
    subject = load(folders, attention="eager")
    batch = subject.prepare(PROMPTS[:1], PICTURES[:1])
    found = head_values(subject, batch, [0], subject.embed(batch))[0][0].unflatten(-1, (4, 8))
    weights, values = [], []
    with torch.no_grad():
        attention = subject.attention(0)
        hooks = [
            attention.register_forward_hook(lambda _m, _a, out: weights.append(out[1])),
            attention.v_proj.register_forward_hook(lambda _m, _a, out: values.append(out)),
        ]
        subject.residuals(batch, [0])
        for hook in hooks:
            hook.remove()
    by_group = values[0][0].unflatten(-1, (2, 8))
    for head in range(4):
        expected = weights[0][0, head] @ by_group[:, head // 2]
        torch.testing.assert_close(found[:, head], expected, **CLOSE)


def test_a_pickled_tower_of_an_older_repository_is_read(folders, tmp_path, subject):
    tower = tiny.build_tower(tmp_path / "tower", pickled=True)
    other = load((folders[0], tower))
    torch.testing.assert_close(other.see(PICTURES).features, subject.see(PICTURES).features)
    assert other.fingerprint != subject.fingerprint


def test_the_fingerprint_sees_the_processor_of_the_tower(folders, tmp_path, subject):
    tower = shutil.copytree(folders[1], tmp_path / "tower")
    assert load((folders[0], tower)).fingerprint == subject.fingerprint
    file = tower / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_mean": [0.1, 0.2, 0.3]}))
    assert load((folders[0], tower)).fingerprint != subject.fingerprint


def test_a_tower_saved_with_the_checkpoint_goes_before(folders, tmp_path, subject):
    from safetensors.torch import save_file

    copy = shutil.copytree(folders[0], tmp_path / "vlm")
    tower = subject.model.model.vision_tower.state_dict()
    moved = {f"model.vision_tower.vision_tower.vision_model.{n}": v + 0.01 for n, v in tower.items()}
    save_file(moved, copy / "tower.safetensors", metadata={"format": "pt"})
    index = json.loads((copy / "model.safetensors.index.json").read_text())
    index["weight_map"] |= dict.fromkeys(moved, "tower.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    own = load((copy, folders[1])).model.model.vision_tower.state_dict()
    floats = [name for name in tower if tower[name].is_floating_point()]
    assert all(torch.allclose(own[name], tower[name] + 0.01) for name in floats)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mm_projector_type": "linear"}, "mm_projector_type = 'linear'.*'mlp2x_gelu'"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end = True"),
        ({"s2": True}, "s2 = True, but family 'llava_original' reads False"),
        ({"num_hidden_layers": 3}, r"weights are missing \['model.language_model.layers.2"),
        ({"num_hidden_layers": 1}, r"not known \['model.language_model.layers.1|not known \['model.layers.1"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(folders, tmp_path, changes, words):
    copy = shutil.copytree(folders[0], tmp_path / "vlm")
    config = json.loads((copy / "config.json").read_text()) | changes
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(SubjectError, match=words):
        load((copy, folders[1]))


def test_a_siglip_tower_shows_all_its_patches(folders, tmp_path):
    """As LLaVA-MORE has it: the layer before the last, nothing taken away; published with its text tower."""
    copy = shutil.copytree(folders[0], tmp_path / "vlm")
    config = json.loads((copy / "config.json").read_text())
    config |= {"siglip": True, "s2": False, "mm_vision_tower": "google/siglip-so400m-patch14-384"}
    (copy / "config.json").write_text(json.dumps(config))
    tower = tiny.build_siglip(tmp_path / "tower")
    subject = load((copy, tower))
    own = SiglipVisionModel.from_pretrained(tower)
    squares = [padded_to_square(picture, (127, 127, 127)) for picture in PICTURES]
    pixels = AutoImageProcessor.from_pretrained(tower)(squares, return_tensors="pt").pixel_values
    states = own(pixels, output_hidden_states=True).hidden_states[-2]
    assert states.shape[1] == tiny.GRID**2
    projector = subject.model.model.multi_modal_projector
    expected = projector.linear_2(torch.nn.functional.gelu(projector.linear_1(states)))
    batch = subject.prepare(PROMPTS, PICTURES)
    torch.testing.assert_close(batch.seen.features, expected.flatten(0, 1), **CLOSE)
    assert batch.seen.grids.tolist() == [[3, 3]] * 2
    assert (batch.token_type == IMAGE).sum(1).tolist() == [9, 9]
    # The whole square of the longer side, never cropped.
    assert subject.view_of((60, 40)) == load(folders).view_of((60, 40))


@pytest.fixture(scope="module", params=["gemma2", "phi3"])
def other(request, folders, tmp_path_factory):
    """A LLaVA on another language model: its kind, its folder, and it."""
    folder = tiny.build(tmp_path_factory.mktemp("llava_original") / request.param, kind=request.param)
    return request.param, folder, load((folder, folders[1]), attention="eager")


def test_other_language_models_are_asked_in_their_own_chats(other):
    kind, _, subject = other
    (text,) = subject.texts(PROMPTS[:1], [True], as_chat=True)
    asked = "<image>\nWhere is the cat?"
    expected = {
        "gemma2": f"<bos><start_of_turn>user\n{asked}<end_of_turn>\n<start_of_turn>model\n",
        "phi3": f"<|system|>You are a helpful AI assistant.<|end|><|user|>{asked}<|end|><|assistant|>",
    }
    assert text == expected[kind]


def test_other_language_models_compute_what_their_own_class_does(other):
    """Words and pictures by embeddings; of Gemma both are scaled, as when LLaVA-MORE was trained."""
    kind, folder, subject = other
    config = json.loads((folder / "config.json").read_text())
    config = {key: value for key, value in config.items() if not key.startswith(("mm_", "architectures"))}
    own = AutoModelForCausalLM.from_config(
        CONFIG_MAPPING[kind].from_dict({**config, "model_type": kind}), attn_implementation="eager"
    ).eval()
    weights = {}
    for file in folder.glob("*.safetensors"):
        weights |= load_file(file)
    missing = own.load_state_dict(
        {name: one for name, one in weights.items() if "mm_projector" not in name}, strict=False
    ).missing_keys
    assert missing == ["lm_head.weight"]
    own.tie_weights()
    batch = subject.prepare(PROMPTS, PICTURES)
    shown = batch.token_type == IMAGE
    plain = subject.model.model.multi_modal_projector
    states = plain.linear_2(
        torch.nn.functional.gelu(
            plain.linear_1(tower_states(subject.model.model.vision_tower, PICTURES, subject))
        )
    )
    scale = tiny.D_MODEL**0.5 if kind == "gemma2" else 1.0
    ids = batch.input_ids.masked_fill(shown, 0)
    embeds = own.get_input_embeddings()(ids).masked_scatter(shown[..., None], scale * states)
    with torch.no_grad():
        expected = own(inputs_embeds=embeds, attention_mask=batch.attention_mask).logits
        found = subject.final_logits(batch)
    rows = torch.arange(len(PROMPTS))
    torch.testing.assert_close(found, expected[rows, batch.last], atol=1e-4, rtol=1e-4)
    assert subject.model.lm_head.weight is subject.model.get_input_embeddings().weight


def tower_states(tower, pictures, subject):
    """What the tower sees of padded pictures, two layers before its end and without CLS."""
    mean = tuple(int(255 * value) for value in subject.processor.image_processor.image_mean)
    squares = [padded_to_square(picture, mean) for picture in pictures]
    pixels = subject.processor.image_processor(squares, return_tensors="pt").pixel_values
    return tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]


def test_a_tower_of_another_kind_is_refused(folders, tmp_path):
    Dinov2Config(hidden_size=16).save_pretrained(tmp_path)
    with pytest.raises(SubjectError, match="found model_type 'dinov2', expected clip_vision_model or siglip"):
        load(folders, vision_tower=str(tmp_path))


def test_a_missing_tower_is_named(folders):
    with pytest.raises(SubjectError, match=r"models\.vlm\.vision_tower.*clip-vit-large-patch14-336"):
        load(folders, vision_tower=None)


def test_the_language_model_alone(folders, subject):
    alone = load(folders, text_only=True)
    batch = alone.prepare(PROMPTS, PICTURES)
    assert IMAGE not in batch.token_type
    expected = subject.prepare(PROMPTS, [None, None])
    assert torch.equal(alone.residuals(batch, [1])[1], subject.residuals(expected, [1])[1])
    assert alone.lengths(PROMPTS, [(60, 40)] * 2) == subject.lengths(PROMPTS, [None, None])


def test_a_device_map_spreads_the_weights(folders, subject):
    spread = load(folders, device_map="auto", dtype="bfloat16")
    batch = spread.prepare(PROMPTS, PICTURES)
    values = spread.residuals(batch, [1])[1]
    assert values.dtype == torch.bfloat16
    assert values.isfinite().all()


@pytest.mark.parametrize(("size", "place"), [((5, 2), (0, 1)), ((2, 6), (2, 0)), ((3, 3), (0, 0))])
def test_a_picture_is_padded_to_a_square_around_its_middle(size, place):
    picture, grey = Image.new("RGB", size, "red"), (10, 20, 30)
    square = padded_to_square(picture, grey)
    side = max(size)
    assert square.size == (side, side)
    for x in range(side):
        for y in range(side):
            inside = place[0] <= x < place[0] + size[0] and place[1] <= y < place[1] + size[1]
            assert square.getpixel((x, y)) == ((255, 0, 0) if inside else grey)


def test_what_the_tower_sees_of_a_picture(subject):
    """Padded to a square: the patches reach beyond a wide picture above and below it."""
    assert subject.view_of((60, 40)) == pytest.approx((0.0, -0.25, 1.0, 1.25))
    assert subject.view_of((40, 40)) == (0.0, 0.0, 1.0, 1.0)
    subject.pads = False
    try:
        assert subject.view_of((60, 40)) == pytest.approx((1 / 6, 0.0, 5 / 6, 1.0))
    finally:
        subject.pads = True


@pytest.mark.parametrize("aspect", ["square", None])
def test_pictures_are_padded_only_where_the_checkpoint_says_so(folders, tmp_path, aspect):
    other = shutil.copytree(folders[0], tmp_path / "vlm")
    values = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(values | {"image_aspect_ratio": aspect}))
    assert load(folders).pads and not load((other, folders[1])).pads
