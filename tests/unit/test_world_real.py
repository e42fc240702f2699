"""A real language model taught to see: English that is true, packed questions, adapters, resumption."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import tiny_smolvlm
import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

from vlmdiff.config.world import WorldConfig, adapter_of
from vlmdiff.data.samples import load_samples
from vlmdiff.models.registry import load_subject
from vlmdiff.world.checkpoints import RECORD
from vlmdiff.world.datasets import OPEN_GROUPS, write_dataset
from vlmdiff.world.draw import draw_image
from vlmdiff.world.language import GENERAL_KINDS, QUESTION_KINDS, RELATIONS
from vlmdiff.world.real import english, tuning
from vlmdiff.world.real.curriculum import BASE_MIX, SKEWED_RELATIONS, TAUGHT_MIX, Curriculum
from vlmdiff.world.real.frame import (
    WORDS,
    RealModelError,
    fit_frame,
    framed,
    load_language_model,
    patch_words,
    seen_states,
)
from vlmdiff.world.real.lora import Adapter, merge
from vlmdiff.world.real.merging import write_checkpoint
from vlmdiff.world.real.packing import pack
from vlmdiff.world.real.retention import TOKENS, Retention, read_texts
from vlmdiff.world.real.shipping import NotShippableError, ship
from vlmdiff.world.real.tuning import Files, new_trainer, tune
from vlmdiff.world.sample_labels import all_labels
from vlmdiff.world.scenes import draw_scene, scene_splits
from vlmdiff.world.tokenizer import IMAGE_TOKENS
from vlmdiff.world.vision import EMPTY, patch_attributes

TOWER_FROM = Path(__file__).parents[2] / "resources" / "world" / "vlm"
TEXTS = Path(__file__).parents[2] / "resources" / "wikipedia" / "held_out.jsonl"
SCENES = {"train": 60, "validation": 50, "test": 50}
STEPS = {
    "steps": 6,
    "check_every": 2,
    "images": 2,
    "questions": 3,
    "validation_images": 20,
    "warmup_steps": 2,
}


def small(**changed) -> WorldConfig:
    """A world of few scenes and a short tuning in float32."""
    model = {"base": "base", "lora": {"rank": 2}, "tuning": {**STEPS, "dtype": "float32", **changed}}
    return WorldConfig(scenes=SCENES, vision={"projector_steps": 30}, real_model=model)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    folder = tmp_path_factory.mktemp("real")
    base = tiny_smolvlm.build_lm(folder / "base")
    fit_frame(small(), base, TOWER_FROM, (folder / "frame.safetensors", folder / "frame.csv"))
    return Files(base, TOWER_FROM, folder / "frame.safetensors", TEXTS)


@pytest.fixture(scope="module")
def scenes():
    rng = random.Random(1)
    return [draw_scene(rng) for _ in range(200)]


def holds(scene, prompt: str) -> bool:
    """Work out from the words of a statement alone whether it is true."""
    first, second = sorted(scene.objects, key=lambda thing: prompt.index(f"{thing.colour} {thing.shape}"))
    relation = next(one for name, one in RELATIONS.items() if name.split()[0] in prompt.split())
    return relation.holds(first, second)


def test_statements_are_what_they_say(scenes):
    rng = random.Random(0)
    told = Counter()
    for scene in scenes:
        exchange = english.statement(scene, rng)
        assert (exchange.answer in english.AFFIRMED) == holds(scene, exchange.prompt)
        assert exchange.answer in exchange.choices
        assert exchange.group.split()[0] in exchange.prompt
        told[exchange.answer in english.AFFIRMED] += 1
    assert min(told.values()) > 70


def test_one_statement_has_all_templates_and_one_truth(scenes):
    for scene in scenes[:20]:
        relation = next(one for one in RELATIONS.values() if one in english.possible_relations(scene))
        for truth in (True, False):
            told = english.statements_of(scene, relation, truth)
            assert len({one.prompt for one in told}) == len(english.STATEMENTS)
            assert {one.answer in english.AFFIRMED for one in told} == {truth}


def test_places_are_told_as_they_are(scenes):
    rng = random.Random(0)
    for scene in scenes:
        for kind, names, axis in (("row", english.ROWS, "row"), ("column", english.COLUMNS, "column")):
            exchange = english.MAKERS[kind](scene, rng)
            thing = next(one for one in scene.objects if english.name_of(one) in exchange.prompt)
            assert exchange.answer == names[getattr(thing, axis)]
        exchange = english.relation_question(scene, rng)
        first, second = sorted(scene.objects, key=lambda one: exchange.prompt.index(english.name_of(one)))
        if exchange.prompt.startswith("Which side"):
            first, second = second, first
        axis = "column" if exchange.group.startswith("horizontal") else "row"
        before, after = english.SIDES[axis]
        assert exchange.answer == (before if getattr(first, axis) < getattr(second, axis) else after)


@pytest.mark.parametrize("kind", [*GENERAL_KINDS, "caption", "description"])
def test_general_answers_are_true(scenes, kind):
    rng = random.Random(0)
    for scene in scenes[:60]:
        exchange = english.MAKERS[kind](scene, rng)
        prompt, answer = exchange.prompt, exchange.answer
        if kind == "existence":
            assert (answer == "yes") == any(one.colour in prompt for one in scene.objects)
        elif kind == "count":
            size = "small" if "small" in prompt else "large"
            assert answer == ("zero", "one", "two")[sum(one.size == size for one in scene.objects)]
        elif kind == "caption":
            assert holds(scene, answer.rstrip("."))
        elif kind == "description":
            (thing,) = (one for one in scene.objects if english.name_of(one) in answer)
            assert answer == english.description(thing)
        else:
            key = {"shape": "shape", "colour": "colour", "size": "size"}[kind]
            asked = next(one for one in scene.objects if one.colour in prompt or f"the {one.shape}" in prompt)
            assert answer == getattr(asked, key)
        assert "{" not in prompt and prompt[0].isupper() and prompt[-1] in "?."
        assert "a orange" not in prompt


def test_patches_are_as_long_as_words_and_attributes_as_one_another(files, scenes):
    lm, tokenizer = load_language_model(files.base)
    embedding = lm.get_input_embeddings().weight.detach()
    attributes = patch_attributes(scenes)
    for weight in (1.0, 2.0):
        found = patch_words(attributes, embedding, tokenizer, weight)
        occupied = attributes["colour"] != EMPTY
        assert not found[~occupied].any()
        length = found[occupied].norm(dim=1).mean()
        torch.testing.assert_close(length, embedding.norm(dim=1).median())
    # Without places, what a patch tells of size is as much as what it tells of shape.
    found = patch_words(attributes, embedding, tokenizer, 0.0)[occupied]
    spread = {}
    for name in ("size", "shape", "colour"):
        groups = [found[attributes[name][occupied] == index].mean(0) for index in range(len(WORDS[name]))]
        centred = torch.stack(groups) - torch.stack(groups).mean(0)
        spread[name] = centred.norm(dim=1).mean().item()
    assert max(spread.values()) < 1.4 * min(spread.values())


def test_packed_questions_get_what_they_get_alone(files, scenes):
    vlm, processor = framed(files.base, files.tower_from, files.frame)
    rng = random.Random(0)
    asked = [[make(scene, rng) for make in english.MAKERS.values()] for scene in scenes[:2]]
    packed = pack(asked, processor.tokenizer, IMAGE_TOKENS)
    questions = object.__new__(tuning.Questions)
    questions.decoder, questions.projector = vlm.model.language_model, vlm.model.multi_modal_projector
    with torch.no_grad():
        states = questions.states(packed, seen_states(vlm, processor, scenes[:2]))
        for i, scene in enumerate(scenes[:2]):
            for j, exchange in enumerate(asked[i]):
                parts = [{"type": "image"}, {"type": "text", "text": exchange.prompt}]
                text = processor.apply_chat_template(
                    [{"role": "user", "content": parts}], add_generation_prompt=True
                )
                given = processor(text=text, images=draw_image(scene), return_tensors="pt")
                alone = vlm(**given).logits[0, -1]
                torch.testing.assert_close(
                    vlm.lm_head(states[i, packed.answer[i, j]]), alone, atol=1e-4, rtol=1e-4
                )


def test_an_exchange_weighs_one(files, scenes):
    tokenizer = framed(files.base, files.tower_from, files.frame)[1].tokenizer
    rng = random.Random(0)
    packed = pack([[make(scenes[0], rng) for make in english.MAKERS.values()]], tokenizer, IMAGE_TOKENS)
    assert packed.weight.sum().item() == pytest.approx(len(english.MAKERS))
    assert not packed.weight[:, : packed.head + packed.image].any()


def test_a_shape_after_a_colour_weighs_something_too(files):
    tokenizer = framed(files.base, files.tower_from, files.frame)[1].tokenizer
    exchange = english.Exchange("size", "size", "Is the red circle small?", "small", ("small",))
    packed = pack([[exchange]], tokenizer, IMAGE_TOKENS, binding_weight=0.125)
    (place,) = (packed.weight[0] == 0.125).nonzero()
    following = tokenizer.decode(packed.input_ids[0, place:]).strip()
    assert following.startswith("circle small?")
    assert packed.weight[packed.weight != 0.125].sum().item() == pytest.approx(1)


def test_the_curriculum_is_fixed():
    settings = small(
        steps=100, skew_until=0.5, judge_from=0.2, decay_fraction=0.2, warmup_steps=10
    ).real_model.tuning
    real, control = Curriculum(settings), Curriculum(settings, spatial=False)
    assert real.mix(20) == BASE_MIX and real.mix(21) == TAUGHT_MIX
    assert set(control.mix(1)) == set(GENERAL_KINDS)
    assert [real.skew(step) for step in (0, 20, 35, 80)] == [0.8, 0.8, 0.4, 0.0]
    rates = [real.learning_rate(step) / settings.learning_rate for step in (1, 5, 10, 80, 81, 91, 100)]
    assert rates == pytest.approx([0.1, 0.5, 1, 1, 1, 0.5, 0.05])
    rng = random.Random(0)
    early = [real.draw(draw_scene(rng), 21, rng) for _ in range(600)]
    stated = Counter(one.group in SKEWED_RELATIONS for one in early if one.kind == "statement")
    assert stated[True] > 3 * stated[False]


def test_shuffled_images_are_others(files):
    """With the same questions the real tuning and the control look at different images."""
    real, shuffled = (new_trainer(small(), kind, files) for kind in ("vlm", "shuffled_images"))
    assert shuffled.shuffled and not real.shuffled
    seen = []
    shuffled.states = lambda packed, images: (
        seen.append(images) or real.__class__.states(shuffled, packed, images)
    )
    with torch.no_grad():
        shuffled.loss(1)
    rng = tuning.random_stream(0, "real", "shuffled_images", 1)
    rows = rng.choices(range(SCENES["train"]), k=STEPS["images"])
    assert not torch.equal(seen[0], shuffled.seen["train"][rows])


def test_a_control_without_places_is_never_asked_for_one(files):
    trainer = new_trainer(small(), "no_spatial", files)
    rng = random.Random(0)
    kinds = {one.kind for scene in trainer.scenes["train"][:30] for one in trainer.ask(scene, 5, rng)}
    assert kinds == set(GENERAL_KINDS)


def run(folder: Path, files: Files, kind: str = "vlm", **changed) -> None:
    snapshots = {percent: folder / str(percent) for percent in (50, 100)}
    tune(small(**changed), kind, files, snapshots, folder / "log.csv", folder / "checkpoints", "code")


def kill_after_saving(monkeypatch) -> None:
    """End a tuning at its first checkpoint."""

    def killed(self, *given):
        save(self, *given)
        raise KeyboardInterrupt

    save = tuning.CheckpointFolder.save
    monkeypatch.setattr(tuning.CheckpointFolder, "save", killed)


@pytest.mark.parametrize("kind", ["vlm", "continued_text"])
def test_an_interrupted_tuning_goes_on_bit_for_bit(files, tmp_path, monkeypatch, kind):
    run(tmp_path / "whole", files, kind)
    kill_after_saving(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "again", files, kind)
    monkeypatch.undo()
    owner, steps = tuning.Documents if kind == "continued_text" else tuning.Questions, []
    loss = owner.loss
    monkeypatch.setattr(owner, "loss", lambda self, step: steps.append(step) or loss(self, step))
    run(tmp_path / "again", files, kind)
    assert steps == [3, 4, 5, 6]
    for name in ("50/adapter_model.safetensors", "100/adapter_model.safetensors", "log.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "again" / "checkpoints").exists()


def test_other_settings_start_anew(files, tmp_path, monkeypatch):
    save = tuning.CheckpointFolder.save
    monkeypatch.setattr(
        tuning.CheckpointFolder,
        "save",
        lambda self, *given: save(self, *given) or (_ for _ in ()).throw(KeyboardInterrupt),
    )
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, files)
    monkeypatch.undo()
    run(tmp_path, files, learning_rate=5e-4)
    assert json.loads((tmp_path / "100" / "training.json").read_text())["total_steps"] == STEPS["steps"]


def test_a_tuning_learns(files, tmp_path):
    """The loss on the training's own questions falls; adapters alone change."""
    run(tmp_path, files, steps=40, check_every=10, learning_rate=1e-2, images=4, questions=6)
    rows = [line.split(",") for line in (tmp_path / "log.csv").read_text().splitlines()]
    losses = [float(row[rows[0].index("loss")]) for row in rows[1:]]
    assert losses[-1] < losses[0] - 1  # nats
    assert set(QUESTION_KINDS) < set(rows[0])


def test_a_merged_checkpoint_answers_as_the_adapted_model(files, tmp_path):
    run(tmp_path, files, steps=8, learning_rate=1e-2)
    write_checkpoint(
        files.base, tmp_path / "vlm", "float32", (files.tower_from, files.frame), tmp_path / "100"
    )
    subject = load_subject("vlm", {"family": "llava"}, tmp_path / "vlm")
    merged = subject.model.model.language_model
    apart, _ = framed(files.base, files.tower_from, files.frame)
    before = {name: value.clone() for name, value in apart.model.language_model.state_dict().items()}
    adapter = Adapter(apart.model.language_model, small().real_model.lora)
    set_peft_model_state_dict(adapter.adapted, load_file(tmp_path / "100" / "adapter_model.safetensors"))
    ids = torch.randint(0, 200, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = adapter.adapted(input_ids=ids).last_hidden_state
        torch.testing.assert_close(merged(input_ids=ids).last_hidden_state, expected, atol=1e-4, rtol=1e-4)
    moved = {name for name, value in merged.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all("proj" in name for name in moved)


def test_what_was_not_tuned_is_the_language_model(files, tmp_path):
    write_checkpoint(files.base, tmp_path / "base_lm", "float32")
    kept = AutoModelForCausalLM.from_pretrained(tmp_path / "base_lm").state_dict()
    for name, value in load_language_model(files.base)[0].state_dict().items():
        assert torch.equal(kept[name], value)


def test_a_text_control_has_no_eyes(files, tmp_path):
    run(tmp_path, files, "continued_text")
    write_checkpoint(files.base, tmp_path / "read_on", "float32", adapter=tmp_path / "100")
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "read_on")
    assert not isinstance(made, LlavaForConditionalGeneration)
    assert not torch.equal(
        made.model.layers[0].mlp.up_proj.weight,
        load_language_model(files.base)[0].model.layers[0].mlp.up_proj.weight,
    )


def test_another_chat_format_is_refused(files, tmp_path):
    shutil.copytree(files.base, tmp_path / "other")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        file = tmp_path / "other" / name
        file.write_text(file.read_text().replace("<|im_start|>", "<|begin|>"))
    with pytest.raises(RealModelError, match="ChatML"):
        load_language_model(tmp_path / "other")


def test_the_adapter_keeps_the_language_model(files):
    decoder = load_language_model(files.base)[0].model
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    adapter = Adapter(decoder, small().real_model.lora)
    assert {one.dtype for one in adapter.parameters()} == {torch.float32}
    kept = {
        name.replace(".base_layer", ""): value
        for name, value in decoder.state_dict().items()
        if "lora" not in name
    }
    assert kept.keys() == before.keys() and all(torch.equal(kept[name], before[name]) for name in before)


def test_merging_needs_no_more_than_the_folder(files, tmp_path):
    run(tmp_path, files)
    decoder = load_language_model(files.base)[0].model
    merge(decoder, tmp_path / "100")
    assert not any("lora" in name for name in decoder.state_dict())


def test_splits_of_the_world_are_those_of_its_own_models():
    ours, theirs = small(), WorldConfig(scenes=SCENES)
    assert scene_splits(ours.scenes.model_dump(), 0) == scene_splits(theirs.scenes.model_dump(), 0)


ENGLISH = WorldConfig(real_model={"base": "base"}, datasets={
    "spatial_val": {"kind": "spatial", "scenes": "validation", "samples": 240},
    "general_val": {"kind": "general", "scenes": "validation", "samples": 100},
    "open_val": {"kind": "spatial_open", "scenes": "validation", "samples": 120},
    "mixed": {"kind": "mixed", "scenes": "train", "samples": 300},
    "text": {"kind": "text", "scenes": "train", "samples": 20},
})  # fmt: skip


def rows_of(name: str, folder: Path) -> list[dict]:
    settings = WorldConfig(**ENGLISH.dataset_settings(name))
    assert settings.language == "english"
    write_dataset(settings, name, folder / "samples.jsonl", folder / "images")
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_statements_come_in_pairs_that_text_cannot_tell_apart(tmp_path):
    rows = rows_of("spatial_val", tmp_path)
    truths = defaultdict(Counter)
    for row in rows:
        truths[row["prompt"]][row["label"]] += 1
        assert row["label"] == int(row["answer"] in ("yes", "true"))
        named = [f"{row[who]['colour']} {row[who]['shape']}" for who in ("first", "second")]
        assert row["prompt"].index(named[0]) < row["prompt"].index(named[1])
    assert all(counts[0] == counts[1] for counts in truths.values())
    assert Counter(row["relation"] for row in rows) == dict.fromkeys(RELATIONS, 60)
    starts = Counter(row["prompt"].split()[0] for row in rows)
    assert set(starts) == {"Is", "The", "True"} and min(starts.values()) > 40


def test_general_and_open_questions_are_balanced(tmp_path):
    for name, groups in (("general_val", GENERAL_KINDS), ("open_val", OPEN_GROUPS)):
        rows = rows_of(name, tmp_path / name)
        assert set(Counter(row["group"] for row in rows)) == set(groups)
        assert all(row["answer"] in row["choices"] for row in rows)


def test_mixed_questions_are_as_frequent_as_in_tuning(tmp_path):
    rows = rows_of("mixed", tmp_path)
    stated = sum(row["group"] in RELATIONS for row in rows) / len(rows)
    assert stated == pytest.approx(TAUGHT_MIX["statement"] / sum(TAUGHT_MIX.values()), abs=0.08)


def test_documents_are_english_prose_without_a_chat(tmp_path):
    rows = rows_of("text", tmp_path)
    assert all(row["image"] is None and row["chat"] is False for row in rows)
    assert all(row["prompt"][0].isupper() and row["prompt"].endswith(".") for row in rows)


def test_labels_of_english_statements_are_those_of_the_scene(tmp_path):
    rows_of("spatial_val", tmp_path)
    samples = load_samples(tmp_path / "samples.jsonl")
    labels = {one.name: one for one in all_labels(samples)}
    true = labels["statement is true"]
    expected = [sample.answer in ("yes", "true") for sample in samples]
    assert true.among.all() and true.value.tolist() == expected
    assert labels["word 'left'"].value.sum() == 60


def test_an_adapter_says_nothing_of_this_machine(files, tmp_path):
    run(tmp_path, files)
    settings = json.loads((tmp_path / "100" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] is None
    assert settings["target_modules"] == sorted(settings["target_modules"])
    assert str(files.base.parent) not in (tmp_path / "100" / "training.json").read_text()


def test_what_is_shipped_is_all_that_a_config_asks_for(tmp_path):
    tuned = tmp_path / "tuned"
    wanted = [*(f"vlm/{percent}" for percent in (25, 50, 75, 100)), "vlm_shuffled/100"]
    for part in [*wanted, "vlm_shuffled/50"]:
        (tuned / part).mkdir(parents=True)
        (tuned / part / "adapter_model.safetensors").write_text(part)
        (tuned / part / RECORD).write_text(json.dumps({"settings": {"steps": 480}}))
    (tuned / "vlm.csv").write_text("step\n")
    with pytest.raises(NotShippableError, match=r"found no .*frame\.safetensors: make them"):
        ship(tuned, tmp_path / "shipped")
    assert not (tmp_path / "shipped").exists()
    (tuned / "frame.safetensors").write_text("frame")
    ship(tuned, tmp_path / "shipped")
    found = {
        str(file.parent.relative_to(tmp_path / "shipped")) for file in (tmp_path / "shipped").glob("*/*/*")
    }
    assert found == set(wanted)
    assert (tmp_path / "shipped" / "training_logs" / "vlm.csv").is_file()
    assert "torch" in json.loads((tmp_path / "shipped" / "provenance.json").read_text())["packages"]
    (tuned / "vlm_shuffled/100" / RECORD).write_text(json.dumps({"settings": {"steps": 400}}))
    with pytest.raises(NotShippableError, match=r"vlm_shuffled/100: tuned by other settings than .*vlm/25"):
        ship(tuned, tmp_path / "again")
    (tuned / "vlm/25/adapter_model.safetensors").unlink()
    with pytest.raises(NotShippableError, match=r"vlm/25"):
        ship(tuned, tmp_path / "again")


def test_a_tuned_projector_travels_with_its_adapter(files, tmp_path):
    run(tmp_path / "tuned", files, learning_rate=1e-2)
    run(tmp_path / "frozen", files, learning_rate=1e-2, projector="frozen")
    fitted = framed(files.base, files.tower_from, files.frame)[0].model.multi_modal_projector.state_dict()
    for kind, moved in (("tuned", True), ("frozen", False)):
        seeing = files.tower_from, files.frame
        write_checkpoint(files.base, tmp_path / kind / "vlm", "float32", seeing, tmp_path / kind / "100")
        made = LlavaForConditionalGeneration.from_pretrained(tmp_path / kind / "vlm")
        weights = made.model.multi_modal_projector.state_dict()
        assert any(not torch.equal(weights[name], fitted[name]) for name in fitted) == moved


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("base_lm", None),
        ("vlm", ("vlm", 100)),
        ("vlm_25", ("vlm", 25)),
        ("vlm_shuffled", ("vlm_shuffled", 100)),
    ],
)
def test_models_are_made_of_adapters(name, expected):
    assert adapter_of(name) == expected


def divergence(files, adapter, lm, tokenizer, step=1):
    """How far a model with an adapter is from itself without it."""
    retention = Retention(read_texts(TEXTS)[:40], tokenizer, seed=0, count=4)
    with torch.no_grad():
        return retention.loss(adapter.adapted, lm.lm_head, step).item()


def test_a_fresh_adapter_says_what_the_model_said(files):
    lm, tokenizer = load_language_model(files.base)
    adapter = Adapter(lm.model, small().real_model.lora)
    assert divergence(files, adapter, lm, tokenizer) == pytest.approx(0, abs=1e-6)


def test_divergence_is_what_torch_says_of_each_text_alone(files):
    lm, tokenizer = load_language_model(files.base)
    adapter = Adapter(lm.model, small().real_model.lora)
    with torch.no_grad():
        for one in adapter.parameters():
            one.add_(torch.randn_like(one) * 0.2)
    adapter.write_back()
    texts = read_texts(TEXTS)[:4]
    told = Retention(texts, tokenizer, seed=0, count=4)
    with torch.no_grad():
        ours = told.loss(adapter.adapted, lm.lm_head, 1).item()
    changed, before = lm, load_language_model(files.base)[0]
    each = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=TOKENS).input_ids
        with torch.no_grad():
            p, q = (one(input_ids=ids).logits.log_softmax(-1)[0] for one in (before, changed))
        each.append((p.exp() * (p - q)).sum(-1))
    assert ours == pytest.approx(torch.cat(each).mean().item(), rel=1e-4)
    assert ours > 0.01


@pytest.mark.parametrize("kind", ["vlm", "continued_text"])
def test_a_tuned_model_is_held_to_what_it_said(files, tmp_path, kind):
    """The weight of the divergence decides how much of the language is kept."""
    ends = {}
    for texts, weight in ((0, 1.0), (4, 100.0)):
        config = small(retention_texts=texts, retention_weight=weight, learning_rate=3e-2, steps=12)
        folder = tmp_path / f"{texts}"
        tune(
            config,
            kind,
            files,
            {100: folder},
            tmp_path / f"{texts}.csv",
            tmp_path / f"checkpoints_{texts}",
            "code",
        )
        lm, tokenizer = load_language_model(files.base)
        adapter = Adapter(lm.model, config.real_model.lora)
        set_peft_model_state_dict(adapter.adapted, load_file(folder / "adapter_model.safetensors"))
        ends[texts] = divergence(files, adapter, lm, tokenizer, step=99)
        columns = (tmp_path / f"{texts}.csv").read_text().splitlines()[0].split(",")
        assert ("divergence" in columns) == bool(texts)
    assert ends[4] < ends[0] / 2
