from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_models import build_tiny_lm

from vlmdiff.config.subjects import ModelConfig
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.fingerprint import model_fingerprint, reader_files
from vlmdiff.models.registry import FAMILIES, load_subject


def test_every_family_of_the_config_can_be_loaded():
    allowed = ModelConfig.model_fields["family"].annotation.__args__
    assert set(allowed) == set(FAMILIES)


def test_a_config_entry_is_accepted_as_it_is(tiny_lm_path):
    spec = ModelConfig(family="causal_lm", path="anything", dtype="bfloat16", attention="eager")
    subject = load_subject("lm", spec, tiny_lm_path)
    assert subject.model.dtype == torch.bfloat16
    assert subject.model.config._attn_implementation == "eager"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_images_follow_the_models_dtype(tiny_vlm_path, dtype):
    from PIL import Image

    subject = load_subject("vlm", {"family": "llava", "dtype": dtype}, tiny_vlm_path)
    batch = subject.prepare(["describe this image ."], [Image.new("RGB", (36, 36), "red")])
    assert subject.residuals(batch, [0])[0].dtype == getattr(torch, dtype)


def test_fingerprint_follows_content_not_place(tiny_lm_path, tmp_path):
    copy = shutil.copytree(tiny_lm_path, tmp_path / "copy")
    assert model_fingerprint(copy) == model_fingerprint(tiny_lm_path)
    (copy / "training.json").write_text("{}")
    assert model_fingerprint(copy) == model_fingerprint(tiny_lm_path)
    other = build_tiny_lm(tmp_path / "other", seed=1)
    assert model_fingerprint(other) != model_fingerprint(tiny_lm_path)
    config = json.loads((copy / "config.json").read_text()) | {"rms_norm_eps": 0.1}
    (copy / "config.json").write_text(json.dumps(config))
    assert model_fingerprint(copy) != model_fingerprint(tiny_lm_path)


READS_INPUTS = [
    "added_tokens.json", "additional_chat_templates/rag.jinja", "chat_template.jinja", "chat_template.json",
    "image_processor_config.json", "merges.txt", "preprocessor_config.json", "processor_config.json",
    "qwen.tiktoken", "sentencepiece.bpe.model", "source.spm", "special_tokens_map.json", "spiece.model",
    "tekken.json", "tokenizer.json", "tokenizer.model", "tokenizer.model.v3", "tokenizer_config.json",
    "video_preprocessor_config.json", "vocab.bpe", "vocab.json", "vocab.txt",
]  # fmt: skip


@pytest.mark.parametrize("name", READS_INPUTS)
def test_the_fingerprint_sees_every_file_that_reads_inputs(tiny_lm_path, tmp_path, name):
    folder = shutil.copytree(tiny_lm_path, tmp_path / "copy")
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    prints = []
    for content in ("one", "two"):
        file.write_text(content)
        prints.append(model_fingerprint(folder))
    assert prints[0] != prints[1]


@pytest.mark.parametrize(
    "name",
    ["README.md", "LICENSE", "training.json", "generation_config.json", "model.safetensors.index.json"],
)
def test_the_fingerprint_does_not_see_what_changes_no_input(tiny_lm_path, tmp_path, name):
    folder = shutil.copytree(tiny_lm_path, tmp_path / "copy")
    before = model_fingerprint(folder)
    (folder / name).write_text("{}")
    assert model_fingerprint(folder) == before
    assert {file.name for file in reader_files(folder)} == {
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(SubjectError, match=r"models\.lm\.path: no config\.json in .*nowhere"):
        load_subject("lm", {"family": "causal_lm"}, tmp_path / "nowhere")


def test_the_wrong_family_is_named(tiny_lm_path, tiny_vlm_path):
    with pytest.raises(SubjectError, match="has 'llama'; use family 'causal_lm'"):
        load_subject("m", {"family": "llava"}, tiny_lm_path)
    with pytest.raises(SubjectError, match="model_type 'llava', which sees images.*use llava"):
        load_subject("m", {"family": "causal_lm"}, tiny_vlm_path)
    with pytest.raises(SubjectError, match=r"found 'bert', allowed are \['causal_lm', .*'llava'"):
        load_subject("m", {"family": "bert"}, tiny_vlm_path)


@pytest.mark.parametrize("removed", ["model.safetensors", "tokenizer.json"])
def test_an_incomplete_checkpoint_is_named(tiny_lm_path, tmp_path, removed):
    copy = shutil.copytree(tiny_lm_path, tmp_path / "copy")
    (copy / removed).unlink()
    with pytest.raises(SubjectError, match="copy"):
        load_subject("lm", {"family": "causal_lm"}, copy)


def test_weights_that_are_cut_off_are_refused(tiny_lm_path, tmp_path):
    copy: Path = shutil.copytree(tiny_lm_path, tmp_path / "copy")
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(SubjectError, match="cannot be loaded"):
        load_subject("lm", {"family": "causal_lm"}, copy)


def test_weights_that_lack_a_block_are_refused(tiny_lm_path, tmp_path):
    from safetensors.torch import load_file, save_file

    copy: Path = shutil.copytree(tiny_lm_path, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    kept = {name: value for name, value in weights.items() if ".layers.1." not in name}
    save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SubjectError, match=r"layers\.1\."):
        load_subject("lm", {"family": "causal_lm"}, copy)


def test_links_into_a_cleared_cache_are_named(tiny_lm_path, tmp_path):
    folder = tmp_path / "lm"
    folder.mkdir()
    shutil.copy(tiny_lm_path / "config.json", folder)
    (folder / "model.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(SubjectError, match="links to files that are gone.*delete the folder"):
        load_subject("lm", {"family": "causal_lm"}, folder)


@pytest.mark.parametrize("kind", ["Qwen3_5", "Qwen3_5Moe", "Qwen3Next"])
def test_blocks_without_attention_are_refused_by_name(tmp_path, kind):
    """As long as transformers builds them so: three of four blocks have no heads of attention."""
    import transformers

    from vlmdiff.config.new import NewConfigError, look_at_checkpoint

    sees = kind != "Qwen3Next"
    config = getattr(transformers, f"{kind}Config")()
    config.save_pretrained(tmp_path)
    kinds = config.get_text_config().layer_types
    assert kinds.count("linear_attention") * 4 == len(kinds) * 3
    said = f"{tmp_path} has model_type '{config.model_type}', which no family reads: most of its blocks keep"
    for family in ("causal_lm", "qwen_vl"):
        with pytest.raises(SubjectError, match=said):
            load_subject("m", {"family": family}, tmp_path)
    with pytest.raises(NewConfigError, match=f"found model_type '{config.model_type}', which no family"):
        look_at_checkpoint(str(tmp_path), sees)
