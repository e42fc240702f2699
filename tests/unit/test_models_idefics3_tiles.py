"""SmolVLM and Idefics3 with `tiles`: prompts, pixels and numbers of transformers, and each token's place."""

import json
import shutil

import family_checks as checks
import numpy as np
import pytest
import tiny_smolvlm as tiny
import tiny_tokenizers
import torch
from PIL import Image
from tiny_smolvlm import CHAT_TEMPLATE, GRID, PATCH, SHUFFLED, SIDE
from transformers import Idefics3Processor
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from vlmdiff.activations.tokens import BOS, BREAK, IMAGE, PADDING, TEXT
from vlmdiff.data.batching import prepare_batches
from vlmdiff.explorer.examples import UNPLACED, token_rows
from vlmdiff.heads.attention import patch_grid
from vlmdiff.heads.corruption import mean_image
from vlmdiff.models.batch import Seen
from vlmdiff.models.describe import rows_of
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.registry import load_subject

VIEW = GRID * GRID
MARK = "<fake_token_around_image>"
PROMPTS = ["Where is the cat?", "Is the following statement correct? The dog is left of the car. Yes or No?"]
PICTURES = [
    Image.linear_gradient("L").convert("RGB").resize((60, 40)),
    Image.radial_gradient("L").convert("RGB").resize((40, 200)),
]
# Rows and columns of tiles of pictures of many proportions; the longer side always has four.
SIZES = {
    (60, 40): (3, 4),
    (40, 200): (4, 1),
    (50, 50): (4, 4),
    (20, 12): (3, 4),
    (SIDE, SIDE): (4, 4),
    (4 * SIDE, 3 * SIDE): (3, 4),
    (400, 30): (1, 4),
    (190, 97): (3, 4),
}


def load(folder, **changes):
    spec = {"family": "idefics3", "attention": "eager", "tiles": True, **changes}
    return load_subject("vlm", spec, folder, "cpu")


def edged(folder, to, edge):
    """Copy a checkpoint whose image processor brings pictures to another longest edge."""
    made = shutil.copytree(folder, to)
    file = made / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"size": {"longest_edge": edge}}))
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.build(tmp_path_factory.mktemp("tiles") / "vlm", layers=3)


@pytest.fixture(scope="module", params=["smolvlm", "idefics3"])
def subject(request, folder, tmp_path_factory):
    if request.param == "idefics3":
        folder = tiny.build(tmp_path_factory.mktemp("tiles") / "old", layers=3, kind="idefics3")
    return load(folder)


@pytest.fixture(scope="module")
def batch(subject):
    return subject.prepare(PROMPTS, PICTURES)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return checks.question_samples(tmp_path_factory.mktemp("samples"), PICTURES)


@pytest.fixture(scope="module")
def runs(subject, samples):
    return checks.runs_of(subject, samples)


def published(subject, prompt, picture):
    """What transformers' own processor makes of a prompt and a picture, with its defaults."""
    processor = Idefics3Processor(subject.processor.image_processor, subject.tokenizer, image_seq_len=VIEW)
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    chat = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True, chat_template=CHAT_TEMPLATE)
    return processor(text=[text], images=[[picture]], return_tensors="pt")


def written(subject, prompt, size):
    """A prompt's tokens by the function with which SmolVLM's processor writes pictures."""
    cut = SIZES[size]
    image = get_image_prompt_string(*cut, VIEW, MARK, "<image>", "<global-img>")
    text = f"<|im_start|>User:{image}{prompt}<end_of_utterance>\nAssistant:"
    return subject.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("size", SIZES)
def test_prompts_and_pixels_are_those_of_the_published_processors(subject, size):
    picture = Image.linear_gradient("L").convert("RGB").resize(size)
    made, pixels = published(subject, PROMPTS[0], picture), subject.read([picture])
    assert torch.equal(made.pixel_values, pixels.pixel_values)
    assert torch.equal(made.pixel_attention_mask, pixels.pixel_attention_mask)
    ids = subject.rows(PROMPTS[:1], [size])[0]
    assert ids == made.input_ids[0].tolist() == written(subject, PROMPTS[0], size)
    down, across = SIZES[size]
    assert made.pixel_values.shape[1] == down * across + 1
    assert subject.grid_of(size) == (GRID * down, GRID * across)
    assert ids.count(subject.image_id) == (down * across + 1) * VIEW


@pytest.mark.parametrize("edge", [SIDE, 2 * SIDE + 4, 75, 4 * SIDE])
def test_tiles_are_counted_as_the_processor_cuts_them(folder, tmp_path, edge):
    subject = load(edged(folder, tmp_path / "vlm", edge))
    sizes = np.random.default_rng(0).integers(1, 300, (60, 2)).tolist()
    for width, height in [*sizes, [97, 48], [49, 48], [48, 49], [1, 1], [200, 1]]:
        found = subject.read([Image.new("RGB", (width, height))])
        cut = [max(found.rows[0][0], 1), max(found.cols[0][0], 1)]
        assert list(subject.cut((width, height))) == cut, (width, height)


def test_newlines_that_are_one_token_stay_one(folder, monkeypatch):
    """As in the published vocabularies: the end of the last row and the empty line are merged."""
    lines = ("\n\n",) * 50
    monkeypatch.setattr(tiny_tokenizers, "SENTENCES", (*tiny_tokenizers.SENTENCES, *lines))
    subject = load(folder)
    merged = tiny.smol_tokenizer()
    assert len(merged.encode("\n\n")) == 1 and len(subject.tokenizer.encode("\n\n")) == 2
    subject.tokenizer = subject.processor.tokenizer = merged
    subject.__dict__.pop("prompts", None)
    assert subject.rows(PROMPTS[:1], [(60, 40)])[0] == written(subject, PROMPTS[0], (60, 40))


def test_a_picture_that_is_not_cut_is_shown_once(folder, tmp_path):
    """Its prompt, features and places are those without tiles."""
    small = edged(folder, tmp_path / "vlm", SIDE)
    subject, plain = load(small), load(small, tiles=False)
    made = published(subject, PROMPTS[0], PICTURES[0])
    found, expected = (one.prepare(PROMPTS, PICTURES) for one in (subject, plain))
    assert rows_of(found)[0] == made.input_ids[0].tolist()
    for name in ("input_ids", "token_type"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert torch.equal(subject.read(PICTURES).pixel_values, plain.read(PICTURES).pixel_values)
    torch.testing.assert_close(found.seen.features, expected.seen.features)
    assert found.seen.counts == [VIEW] * 2 and found.seen.layouts == expected.seen.layouts
    assert torch.equal(found.seen.places(1), expected.seen.places(1))


def test_images_residuals_and_logits_are_those_of_transformers(subject, batch):
    residuals, logits = subject.residuals(batch, [0, 1, 2]), subject.final_logits(batch)
    shown = batch.seen.features.split(batch.seen.counts)
    for row, prompt in enumerate(PROMPTS):
        inputs = published(subject, prompt, PICTURES[row])
        with torch.no_grad():
            output = subject.model(**inputs, output_hidden_states=True)
        length = inputs["input_ids"].shape[1]
        images = output.image_hidden_states
        images = images if isinstance(images, torch.Tensor) else images.pooler_output[0]
        torch.testing.assert_close(shown[row], images.flatten(0, -2), **checks.CLOSE)
        for layer in (0, 1):
            states = output.hidden_states[layer + 1][0]
            torch.testing.assert_close(residuals[layer][row, :length], states, **checks.CLOSE)
        last = subject.decoder.norm(residuals[2])[row, :length]
        torch.testing.assert_close(last, output.hidden_states[3][0], **checks.CLOSE)
        torch.testing.assert_close(logits[row], output.logits[0, -1], **checks.CLOSE)


def test_what_stands_between_views_is_neither_image_nor_text(subject, batch):
    mark, wide = subject.tokenizer.convert_tokens_to_ids([MARK, "<row_1_col_1>"])
    for row, ids in enumerate(rows_of(batch)):
        types = batch.token_type[row].tolist()
        first, last = ids.index(mark), len(ids) - 1 - ids[::-1].index(mark)
        assert ids[first + 1] == wide
        assert types[0] == BOS and set(types[1 : first + 1]) == set(types[last : len(ids)]) == {TEXT}
        within = [IMAGE if one == subject.image_id else BREAK for one in ids[first + 1 : last]]
        assert types[first + 1 : last] == within and within.count(BREAK) > 8
        assert set(types[len(ids) :]) <= {PADDING}
    assert subject.lengths(PROMPTS, [p.size for p in PICTURES]) == (batch.last + 1).tolist()
    expected = [types[: last + 1] for types, last in zip(batch.token_type.tolist(), batch.last.tolist())]
    assert subject.types(PROMPTS, [p.size for p in PICTURES]) == expected


def test_places_are_those_of_a_table(batch):
    """Tile by tile, row by row within each; the second view has none."""
    assert batch.seen.layouts == [(9, 12, 3, 4), (12, 3, 4, 1)]
    assert batch.seen.counts == [13 * VIEW, 5 * VIEW]
    for picture, (_, _, down, across) in enumerate(batch.seen.layouts):
        table = [
            [GRID * tile_row + row, GRID * tile_column + column]
            for tile_row in range(down)
            for tile_column in range(across)
            for row in range(GRID)
            for column in range(GRID)
        ]
        assert batch.seen.places(picture).tolist() == table
    whole = Seen(torch.zeros(6, 2), torch.tensor([[2, 3]]))
    assert whole.places(0).tolist() == [[row, column] for row in range(2) for column in range(3)]


@pytest.mark.parametrize("place", [(0, 0), (4, 7), (8, 11), (5, 2), (2, 9)])
def test_a_marked_patch_is_marked_where_it_is(subject, tmp_path, monkeypatch, place):
    """A picture with one white patch, seen by a tower whose patches do not see each other."""
    tower = subject.model.model.vision_model
    monkeypatch.setattr(
        tower.encoder, "forward", lambda inputs_embeds, **_: BaseModelOutput(last_hidden_state=inputs_embeds)
    )
    side = SHUFFLED * PATCH
    black = Image.new("RGB", (4 * SIDE, 3 * SIDE))
    white, (row, column) = black.copy(), place
    white.paste("white", (side * column, side * row, side * (column + 1), side * (row + 1)))
    sample = checks.question_samples(tmp_path, [white])[0]
    batch = next(prepare_batches(subject, [sample], 1))[1]
    moved = (batch.seen.features - subject.see([black]).features).abs().sum(1)
    weights = torch.zeros(batch.token_type.shape[1])
    weights[batch.token_type[0] == IMAGE] = moved
    drawn = patch_grid(weights, batch)
    assert drawn.shape == (9, 12) and np.argwhere(drawn > 0).tolist() == [[row, column]]
    rows = token_rows(subject, [sample], 1).set_index("position")
    lit = rows.loc[weights.nonzero().flatten().tolist()]
    found = lit.loc[lit["left"].notna(), ["left", "top", "right", "bottom"]].to_numpy()
    edges = [column / 12, row / 9, (column + 1) / 12, (row + 1) / 9]
    np.testing.assert_allclose(found, [edges])
    second = rows[rows["text"] == UNPLACED]
    assert len(second) == VIEW and len(lit) > 1 and set(lit["text"]) == {"", UNPLACED}


def test_pictures_of_a_batch_have_their_own_places(subject, samples):
    """Of two pictures in one batch, as of each alone."""
    alone = [token_rows(subject, [one], 1).drop(columns="sample_id") for one in samples]
    together = token_rows(subject, samples, 2000)
    for sample, expected in zip(samples, alone, strict=True):
        found = together[together["sample_id"] == sample.sample_id].drop(columns="sample_id")
        assert found.reset_index(drop=True).equals(expected)


def test_pictures_of_one_size_have_a_mean_by_place(subject, samples, tmp_path):
    assert mean_image(subject, samples, 400).positions is None
    turned = [PICTURES[0], PICTURES[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    mean = mean_image(subject, checks.question_samples(tmp_path, turned), 400)
    both = subject.see(turned).features.view(2, 13 * VIEW, -1)
    torch.testing.assert_close(mean.positions[0], both.mean(0), **checks.CLOSE)


def test_padding_changes_nothing(subject):
    checks.check_padding_changes_nothing(subject, PROMPTS, PICTURES)
    checks.check_padding_changes_nothing(subject, PROMPTS, [None, PICTURES[1]])


def test_own_words_are_those_of_greedy_generation(subject, batch):
    inputs = [published(subject, prompt, PICTURES[row]) for row, prompt in enumerate(PROMPTS)]
    checks.check_generation(subject, batch, subject.model, inputs)


def test_heads_and_writers_add_up(subject, batch):
    checks.check_writers(subject, batch, 1)
    checks.check_heads(subject, batch, 1)


def test_a_restart_is_the_whole_run(subject, batch):
    checks.check_restart(subject, batch)
    turned = PICTURES[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    checks.check_prefix(subject, subject.prepare(PROMPTS, [PICTURES[0], turned]))


def test_an_ablation_touches_text_only(subject, batch):
    checks.check_ablation(subject, batch, 1)


def test_heads_are_patched_and_attributed_as_by_hand(subject, runs):
    checks.check_patching(subject, runs)
    checks.check_attribution(subject, runs)


def test_a_shard_holds_what_the_model_computes_but_for_breaks(subject, samples, tmp_path):
    checks.check_extraction(subject, samples, tmp_path / "shard.h5")


def test_text_is_as_without_tiles(folder):
    with_tiles, without = load(folder), load(folder, tiles=False)
    for asked in (True, False):
        assert with_tiles.rows(PROMPTS, [None] * 2, asked) == without.rows(PROMPTS, [None] * 2, asked)
    said = ["What is <row_1_col_1>?"]
    found = with_tiles.prepare(said, [None])
    assert found.input_ids.tolist() == without.prepare(said, [None]).input_ids.tolist()
    assert set(found.token_type[0].tolist()) == {BOS, TEXT}


def test_a_frame_cuts_pictures_for_what_was_never_tuned(folder, tmp_path):
    lm = tiny.build_lm(tmp_path / "lm", seed=1, layers=3)
    tuned, null = load(folder), load(folder, untuned=str(lm))
    one, other = (subject.prepare(PROMPTS, PICTURES) for subject in (tuned, null))
    assert null.tiles and torch.equal(one.input_ids, other.input_ids)
    assert torch.equal(one.seen.features, other.seen.features)


def test_fingerprints_tell_whether_pictures_are_cut(folder):
    cut, whole = load(folder), load(folder, tiles=False)
    unsaid = load_subject("vlm", {"family": "idefics3", "attention": "eager"}, folder, "cpu")
    assert cut.fingerprint != whole.fingerprint == unsaid.fingerprint


def test_unfit_pictures_are_named(subject):
    with pytest.raises(SubjectError, match="found a picture of 402 x 2 pixels") as error:
        subject.rows(PROMPTS, [PICTURES[0].size, (402, 2)])
    assert error.value.index == 1


def test_tiles_of_another_size_than_the_towers_are_refused(folder, tmp_path):
    wrong = shutil.copytree(folder, tmp_path / "wrong")
    file = wrong / "preprocessor_config.json"
    values = json.loads(file.read_text()) | {"max_image_size": {"longest_edge": 4 * PATCH}}
    file.write_text(json.dumps(values | {"size": {"longest_edge": 16 * PATCH}}))
    with pytest.raises(SubjectError, match="its tower makes 52 tokens of the picture, .* places for 117"):
        load(wrong).prepare(PROMPTS[:1], PICTURES[:1])


def test_a_tokenizer_without_the_marks_is_refused(folder, tmp_path):
    wrong = shutil.copytree(folder, tmp_path / "wrong")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        text = (wrong / file).read_text()
        (wrong / file).write_text(text.replace("<row_4_col_3>", "<other>"))
    load(wrong, tiles=False)
    with pytest.raises(SubjectError, match="lacks <row_4_col_3>, which stands before a tile, .*of 4 rows"):
        load(wrong)
