"""A language model in the frame of a vision-language model, for every family."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import tiny_gemma3
import tiny_internvl
import tiny_llava_next
import tiny_llava_original
import tiny_paligemma
import tiny_pixtral
import tiny_qwen_vl
import tiny_smolvlm
import torch
from tiny_models import build_tiny_lm, build_tiny_vlm

from vlmdiff.models.errors import SubjectError
from vlmdiff.models.registry import load_subject

SEED = 11  # of the language models; the checkpoints' own are made with 0
TEXT = "the red circle is left of the blue square ."
SHOWN = 36


def qwen_lm(folder: Path, vlm: Path, tokenizer, rows: int = 0) -> Path:
    """Save the Qwen language model that a checkpoint could have been tuned from, with fewer tokens."""
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    whole = json.loads((vlm / "config.json").read_text())
    values = whole["text_config"] | {"tie_word_embeddings": whole["tie_word_embeddings"]}
    third = "head_dim" in values and values["model_type"].startswith("qwen3")
    kept = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps")
    kept += ("num_key_value_heads", "max_position_embeddings", "tie_word_embeddings", "hidden_act")
    kept += ("head_dim",) if third else ()
    values = {name: values[name] for name in kept if name in values}
    values |= {"vocab_size": len(tokenizer) - rows, "initializer_range": 0.2, "bos_token_id": None}
    values |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    kind, config = (Qwen3ForCausalLM, Qwen3Config) if third else (Qwen2ForCausalLM, Qwen2Config)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        kind(config(**values)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build(family: str, folder: Path) -> tuple[dict, Path, Path]:
    """Return a model's entry, its checkpoint, and the language model that is put into it."""
    vlm, text = folder / "vlm", folder / "lm"
    if family == "llava":
        return {"family": family}, build_tiny_vlm(vlm), build_tiny_lm(text, SEED)
    if family == "llava_original":
        tower = tiny_llava_original.build_tower(folder / "tower")
        tiny_llava_original.build(vlm)
        entry = {"family": family, "vision_tower": str(tower)}
        return entry, vlm, tiny_llava_original.build_lm(text, SEED)
    if family == "paligemma":
        tiny_paligemma.build(vlm)
        entry = {"family": family, "attention": "eager"}
        return entry, vlm, tiny_paligemma.build_lm(text, SEED)
    if family == "internvl":
        tiny_internvl.build(vlm)
        # Three rows of its embeddings are not in its tokenizer; two more are new.
        return {"family": family}, vlm, qwen_lm(text, vlm, tiny_internvl.qwen_tokenizer(), 2)
    if family == "gemma3":
        return {"family": family}, tiny_gemma3.build(vlm), tiny_gemma3.build_lm(text, SEED)
    if family == "pixtral":
        return {"family": family}, tiny_pixtral.build(vlm), tiny_pixtral.build_lm(text, SEED)
    if family in tiny_llava_next.CLASSES:
        tiny_llava_next.build(vlm, kind=family)
        return {"family": "llava_next"}, vlm, tiny_llava_next.build_lm(text, SEED, kind=family)
    if family == "idefics3":
        return {"family": family}, tiny_smolvlm.build(vlm), tiny_smolvlm.build_lm(text, SEED)
    tiny_qwen_vl.build(vlm, generation=family.removeprefix("qwen_vl_"))
    return {"family": "qwen_vl"}, vlm, qwen_lm(text, vlm, tiny_qwen_vl.qwen_tokenizer())


@pytest.fixture(
    scope="module",
    params=[
        "llava",
        "llava_next",
        "llava_onevision",
        "llava_original",
        "paligemma",
        "internvl",
        "idefics3",
        "gemma3",
        "pixtral",
        "qwen_vl_2_5",
        "qwen_vl_3",
    ],
)
def built(request, tmp_path_factory):
    return build(request.param, tmp_path_factory.mktemp(request.param))


def load(built, **changes):
    entry, vlm, text = built
    return load_subject("null", {**entry, "untuned": str(text), **changes}, vlm)


def picture():
    from PIL import Image

    found = Image.new("RGB", (SHOWN, SHOWN), "white")
    found.paste((220, 40, 40), (0, 0, SHOWN // 2, SHOWN // 3))
    return found


@torch.no_grad()
def test_of_text_alone_it_says_what_the_language_model_says(built):
    from transformers import AutoModelForCausalLM

    entry, vlm, text = built
    subject = load(built)
    batch = subject.prepare([TEXT], [None], as_chat=False)
    alone = AutoModelForCausalLM.from_pretrained(text, attn_implementation="eager")
    expected = alone(input_ids=batch.input_ids).logits[:, -1]
    found = subject.final_logits(batch)
    torch.testing.assert_close(found[:, : expected.shape[1]], expected, atol=2e-5, rtol=1e-4)
    tuned = load_subject("vlm", entry, vlm).final_logits(batch)[:, : expected.shape[1]]
    assert (tuned - expected).abs().max() > 0.1


def test_it_sees_what_the_tuned_model_sees(built):
    entry, vlm, _ = built
    tuned = load_subject("vlm", entry, vlm).see([picture()]).features
    assert torch.equal(load(built).see([picture()]).features, tuned)


def test_added_tokens_keep_their_rows(built):
    entry, vlm, text = built
    rows = json.loads((text / "config.json").read_text())["vocab_size"]
    before = load_subject("vlm", entry, vlm).model.get_input_embeddings().weight
    after = load(built).model.get_input_embeddings().weight
    assert torch.equal(after[rows:], before[rows:])
    # But for padding, which is a row of zeros in either.
    assert (after[:rows] == before[:rows]).all(dim=1).sum() <= 1


def test_a_random_connector_is_another_one_of_the_same_scale(built):
    first, again, tuned = load(built, projector="random"), load(built, projector="random"), load(built)
    seen, same, old = (one.see([picture()]).features for one in (first, again, tuned))
    assert torch.equal(seen, same)
    assert torch.nn.functional.cosine_similarity(seen, old).abs().mean() < 0.9
    for module, other in zip(first.connectors, tuned.connectors, strict=True):
        for (name, new), (_, before) in zip(module.named_parameters(), other.named_parameters(), strict=True):
            if before.numel() < 200:
                continue
            assert not torch.equal(new, before), name
            assert float(new.std() / before.std()) == pytest.approx(1, abs=0.15)
    # Nothing else is drawn.
    assert torch.equal(first.model.get_input_embeddings().weight, tuned.model.get_input_embeddings().weight)


def test_deepstack_is_drawn_too(tmp_path):
    built = build("qwen_vl_3", tmp_path)
    random, tuned = load(built, projector="random").see([picture()]), load(built).see([picture()])
    assert len(load(built).connectors) == 3
    assert all((a - b).abs().max() > 0.01 for a, b in zip(random.deepstack, tuned.deepstack, strict=True))


def test_fingerprints_tell_frame_text_and_connector_apart(built, tmp_path):
    entry, vlm, text = built
    other = shutil.copytree(text, tmp_path / "other")
    values = json.loads((other / "config.json").read_text()) | {"note": 1}
    (other / "config.json").write_text(json.dumps(values))
    found = [load_subject("vlm", entry, vlm), load(built), load(built, projector="random")]
    found.append(load(built, untuned=str(other)))
    assert len({one.fingerprint for one in found}) == 4
    assert load(built).fingerprint == found[1].fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 48}, "residual width 48, expected 32; width of a head 12, expected 8"),
        ({"num_hidden_layers": 2}, "number of blocks 2, expected 3"),
        ({"num_attention_heads": 2, "num_key_value_heads": 2}, "number of heads 2, expected 4"),
        ({"intermediate_size": 80}, r"mlp.*has shape \(80, 32\), expected \(64, 32\); name"),
        ({"num_key_value_heads": 2}, r"k_proj.weight of the language model has shape \(16, 32\)"),
        ({"attention_bias": True}, r"12 weights have no counterpart, among them decoder.layers.0.self_attn"),
        ({"vocab_size": 80}, r"embed_tokens.weight .*\(80, 32\), expected \(\d+, 32\) or fewer rows"),
    ],
)
def test_a_language_model_that_does_not_fit_is_refused(tmp_path, changes, message):
    vlm, text = build_tiny_vlm(tmp_path / "vlm"), build_tiny_lm(tmp_path / "lm", SEED, **changes)
    with pytest.raises(SubjectError, match=message):
        load_subject("null", {"family": "llava", "untuned": str(text)}, vlm)


def test_another_vocabulary_is_refused(tmp_path):
    vlm, text = build_tiny_vlm(tmp_path / "vlm"), build_tiny_lm(tmp_path / "lm", SEED)
    values = json.loads((text / "tokenizer.json").read_text())
    words = values["model"]["vocab"]
    words["left"], words["right"] = words["right"], words["left"]
    (text / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(SubjectError, match=r"another vocabulary \(2 of \d+ words .*'left' is"):
        load_subject("null", {"family": "llava", "untuned": str(text)}, vlm)


def test_a_model_that_sees_is_no_language_model(tmp_path):
    vlm = build_tiny_vlm(tmp_path / "vlm")
    with pytest.raises(SubjectError, match="null.untuned.family: .*which sees images"):
        load_subject("null", {"family": "llava", "untuned": str(vlm)}, vlm)
    with pytest.raises(SubjectError, match="models.null.untuned: .*expected one that sees"):
        load_subject("null", {"family": "llava", "untuned": str(vlm), "text_only": True}, vlm)


def test_a_head_of_its_own_does_not_fit_into_embeddings(tmp_path):
    vlm = build_tiny_vlm(tmp_path / "vlm", tie_word_embeddings=True)
    config = json.loads((vlm / "config.json").read_text()) | {"tie_word_embeddings": True}
    (vlm / "config.json").write_text(json.dumps(config))
    text = build_tiny_lm(tmp_path / "lm", SEED)
    with pytest.raises(SubjectError, match="its head is its embeddings"):
        load_subject("null", {"family": "llava", "untuned": str(text)}, vlm)


def test_other_settings_of_the_frame_are_told(tmp_path, caplog):
    vlm, text = build_tiny_vlm(tmp_path / "vlm"), build_tiny_lm(tmp_path / "lm", SEED)
    with caplog.at_level(logging.WARNING):
        load_subject("null", {"family": "llava", "untuned": str(text)}, vlm)
    assert "settings of its frame" not in caplog.text
    other = build_tiny_lm(tmp_path / "other", SEED, rms_norm_eps=0.01)
    with caplog.at_level(logging.WARNING):
        load_subject("null", {"family": "llava", "untuned": str(other)}, vlm)
    assert "rms_norm_eps 1e-06 (the language model: 0.01)" in caplog.text
