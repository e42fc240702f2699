"""What a file or folder is: told for every format that is read, with lines that a configuration takes."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import own_photos
import published_dictionaries as published
import pytest
import tiny_gemma3
import tiny_internvl
import tiny_llava_original
import tiny_models
import tiny_paligemma
import tiny_qwen_vl
import tiny_smolvlm
import torch
import yaml
from published_dictionaries import D_MODEL, D_SAE, K, random_weights
from pydantic import ValidationError

from vlmdiff.config.dictionaries import PublishedDictionary
from vlmdiff.config.families import MODEL_TYPES
from vlmdiff.config.image_tokens import image_tokens
from vlmdiff.config.local_checkpoints import with_family
from vlmdiff.dictionaries.files import save_dictionary
from vlmdiff.dictionaries.importing import fetch_dictionary, import_dictionary
from vlmdiff.dictionaries.modules import TopKDictionary
from vlmdiff.dictionaries.source import FILES
from vlmdiff.formats import FormatError, main, told
from vlmdiff.models.registry import load_subject
from vlmdiff.runtime.disk_errors import StorageError

FAMILIES = {
    "causal_lm": tiny_models.build_tiny_lm,
    "idefics3": tiny_smolvlm.build,
    "gemma3": tiny_gemma3.build,
    "internvl": tiny_internvl.build,
    "llava": tiny_models.build_tiny_vlm,
    "llava_original": tiny_llava_original.build,
    "paligemma": tiny_paligemma.build,
    "qwen_vl": tiny_qwen_vl.build,
}


def hooked(layer: int) -> dict[str, str]:
    """Return the hook points of a layer, as OpenMOSS has them."""
    return dict.fromkeys(("hook_point_in", "hook_point_out"), f"blocks.{layer}.hook_resid_post")


def write_saelens(folder: Path, layer: int) -> Path:
    metadata = {"hook_name": f"blocks.{layer}.hook_resid_post", "sae_lens_version": "6.54.0"}
    config = {"architecture": "jumprelu", "metadata": metadata}
    return published.write_saelens(folder, random_weights(), config)


def write_own(folder: Path) -> Path:
    dictionary = TopKDictionary(D_MODEL, D_SAE, K)
    with torch.no_grad():
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            getattr(dictionary, name).copy_(random_weights(unit_rows=True)[name])
    save_dictionary(dictionary, folder, {"input_scale": 0.5})
    return folder


def write_crosscoder(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    torch.save(published.crosscoder_state(), path)
    return path


# How each format is written beneath a root, for a layer, and the path that is then asked about.
WRITE = {
    "llama_scope": lambda root, layer: published.write_llama_scope(
        root / f"Llama3_1-8B-Base-L{layer}R-8x", random_weights(), **hooked(layer)
    ),
    "gemma_scope": lambda root, layer: published.write_gemma_scope(
        root / f"layer_{layer}/width_16k/average_l0_22", random_weights()
    ),
    "gemma_scope_2": lambda root, layer: published.write_gemma_scope_2(
        root / f"resid_post_all/layer_{layer}_width_16k_l0_small", random_weights()
    ),
    "qwen_scope": lambda root, layer: published.write_qwen_scope(
        root / f"SAE-Res-Qwen3-L0_{K}/layer{layer}.sae.pt", random_weights()
    ),
    "mmdiff": lambda root, layer: published.write_mmdiff(
        root / f"topk/text-only_layer_{layer}.pt",
        {name: one for name, one in random_weights().items() if name != "threshold"},
    ),
    "saelens": lambda root, layer: write_saelens(root / f"blocks.{layer}.hook_resid_post", layer),
    "vlmdiff": lambda root, layer: write_own(root / f"layer_{layer}"),
    "sparsify": lambda root, layer: published.write_sparsify(root / f"layers.{layer}", random_weights()),
    "openmoss": lambda root, layer: published.write_openmoss(
        root / f"L{layer}R", random_weights(), **hooked(layer)
    ),
    "dictionary_learning": lambda root, layer: published.write_dictionary_learning(
        root / f"resid_post_layer_{layer}/trainer_0", random_weights(), "BatchTopKSAE",
        layer=layer, submodule_name=f"resid_post_layer_{layer}",
    ),
    "crosscoder": lambda root, layer: write_crosscoder(root / f"gemma-crosscoder-l{layer}/ae.pt"),
}  # fmt: skip
WRITERS = {
    name: getattr(published, f"write_{name}")
    for name in ("gemma_scope", "gemma_scope_2", "llama_scope", "openmoss", "sparsify")
}
FIRES = {"qwen_scope": f"TopK with k = {K}", "mmdiff": "TopK, b_dec", "vlmdiff": f"TopK with k = {K}"}
FIRES |= {"sparsify": f"TopK with k = {K}"}

# The `architecture` that is told with each format, where it is not JumpReLU of an unknown L0.
TOPK = {"kind": "topk", "d_sae": D_SAE, "k": K}
SHAPES = {"qwen_scope": TOPK, "vlmdiff": TOPK, "sparsify": TOPK, "mmdiff": {**TOPK, "k": "FILL_IN"}}
SHAPES |= {"gemma_scope": {"kind": "jumprelu", "d_sae": D_SAE, "k": 22}, "crosscoder": None}


def lines_of(text: str) -> dict:
    """Return the lines for the configuration that are told."""
    _, _, lines = text.partition("In the configuration:\n\n")
    return yaml.safe_load(lines.partition("\n\n")[0])


def imported(entry: dict, layers: list[int], root: Path) -> None:
    """Import dictionaries by the lines that were told."""
    found = PublishedDictionary(**entry)
    files = {layer: found.path(layer) for layer in layers}
    fetch_dictionary(found.source, found.format, files, root / "sources.json")
    width = 2 * D_MODEL if found.format == "crosscoder" else D_MODEL
    for layer in layers:
        import_dictionary(
            root / "sources.json", layer, found.format, found.options(layer), (width, D_SAE), {}, root / "out"
        )


def test_every_format_is_tried():
    assert set(WRITE) == set(FILES) and set(FAMILIES) <= set(MODEL_TYPES)


@pytest.mark.parametrize("kind", WRITE)
def test_a_dictionary_is_told_and_its_lines_import_it(tmp_path, kind):
    path = WRITE[kind](tmp_path / "saes", 3)
    text = told(path)
    told_width = f"two models of width {D_MODEL}" if kind == "crosscoder" else f"width {D_MODEL}"
    assert text.startswith(f"{path}: a dictionary of format {kind}, {D_SAE} features of {told_width}, ")
    assert FIRES.get(kind, "JumpReLU") in text and "after layer 3." in text
    lines = lines_of(text)
    assert lines["layers"] == [3]
    assert lines.get("architecture") == SHAPES.get(kind, {"kind": "jumprelu", "d_sae": D_SAE, "k": "FILL_IN"})
    ((name, entry),) = lines["dictionaries"].items()
    assert name == ("crosscoder" if kind == "crosscoder" else "base")
    assert entry["format"] == kind and "{layer}" in entry["file"]
    assert ("No file tells FILL_IN" in text) == ("FILL_IN" in str(lines))
    if kind == "mmdiff":
        with pytest.raises(ValidationError, match="k\\n.*valid integer"):
            PublishedDictionary(**entry)
        entry["k"] = K
    imported(entry, [3], tmp_path)
    if kind in ("sparsify", "openmoss", "llama_scope", "dictionary_learning", "gemma_scope"):
        for file in filter(Path.is_file, path.rglob("*.*")):
            if file.name != "lm_config.json":
                assert lines_of(told(file)) == lines


@pytest.mark.parametrize("kind", WRITE)
def test_a_source_of_several_layers_is_told_as_one(tmp_path, kind):
    for layer in (2, 9, 16):
        WRITE[kind](tmp_path / "saes", layer)
    text = told(tmp_path / "saes")
    assert f": 3 dictionaries of format {kind}, " in text and "after layer 2, 9, 16." in text
    lines = lines_of(text)
    assert lines["layers"] == [2, 9, 16]
    (entry,) = lines["dictionaries"].values()
    imported({**entry, "k": K} if entry.get("k") else entry, [2, 9, 16], tmp_path)
    assert entry["file"].count("{layer}") == 1


def test_names_that_differ_from_layer_to_layer_are_listed(tmp_path):
    for layer, norm in ((0, 46), (1, 40)):
        published.write_gemma_scope(tmp_path / f"layer_{layer}/width_16k/average_l0_{norm}", random_weights())
    entry = lines_of(told(tmp_path))["dictionaries"]["base"]
    assert entry["by_layer"]["path"] == {
        0: "layer_0/width_16k/average_l0_46",
        1: "layer_1/width_16k/average_l0_40",
    }
    imported(entry, [0, 1], tmp_path)
    published.write_gemma_scope(tmp_path / "layer_1/width_16k/average_l0_90", random_weights())
    with pytest.raises(FormatError, match="holds 3 dictionaries, of which 2 are of layer 1.*name the folder"):
        told(tmp_path)


def test_a_crosscoder_in_a_trainers_folder_is_one(tmp_path):
    folder = tmp_path / "layer_3" / "trainer_0"
    published.write_dictionary_learning(
        folder, random_weights(), "BatchTopKCrossCoder", published.crosscoder_state()
    )
    entry = lines_of(told(folder))["dictionaries"]["crosscoder"]
    assert entry == {
        "source": str(tmp_path),
        "format": "crosscoder",
        "file": "layer_{layer}/trainer_0/ae.pt",
        "base_model": "base_lm",
    }


REFUSED = [
    (lambda root: published.write_sparsify(root / "layers.3", random_weights(), transcode=True),
     "found a dictionary of format `sparsify`, which cannot be imported: .*transcode is true"),
    (lambda root: published.write_sparsify(root / "layers.3.mlp", random_weights()), "not known as"),
    (lambda root: published.write_openmoss(root / "L", random_weights(), act_fn="batchtopk"), "batchtopk"),
    (lambda root: root, "found an empty folder; this is nothing that is read.*are dictionaries"),
    (lambda root: root / "nowhere", "nowhere: found nothing there, expected a file or folder"),
    (lambda root: put(root / "notes.md", "# Notes"), "notes.md: found notes.md; this is nothing"),
    (lambda root: put(root / "config.json", "{").parent, "config.json is no JSON or cut off"),
    (lambda root: put(root / "config.json", '{"model_type": "mamba_vl", "vision_config": {}}').parent,
     "found a checkpoint of model_type 'mamba_vl', which no family reads; families"),
    (lambda root: put(root / "adapter_config.json", "{}").parent, "is a LoRA adapter, not a whole model"),
    (lambda root: put(root / "one.gguf", "GGUF"), "one.gguf is a GGUF file"),
    (lambda root: put(root / "samples.csv", "a,b\n1,2\n").parent, "names no column prompt and group"),
    (lambda root: put(root / "rows.jsonl", '{"a": 1}\n'), "no column 'text'.*as samples: .*keys missing"),
    (lambda root: put(root / "weights.pt", "no pickle"), "weights.pt: found weights.pt; this is nothing"),
]  # fmt: skip


def put(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


@pytest.mark.parametrize(("build", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_not_read_is_told_with_an_exit_code(tmp_path, capsys, build, words):
    path = build(tmp_path)
    with pytest.raises(FormatError, match=f"(?s){words}"):
        told(path)
    assert main([str(path)]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.strip() and "Traceback" not in printed.err


def test_a_dictionary_of_an_untold_block_is_still_told(tmp_path):
    weights = random_weights()
    folder = published.write_sparsify(tmp_path / "mine", weights)
    text = told(folder)
    assert "of a layer that nothing tells" in text and "layers" not in lines_of(text)
    imported(lines_of(text)["dictionaries"]["base"], [7], tmp_path)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {family: build(root / family) for family, build in FAMILIES.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_is_told_as_it_is_loaded(checkpoints, tmp_path, family):
    """Depth, width and tokens a picture are those of the model that is loaded."""
    folder = checkpoints[family]
    spec = {"family": family, "attention": "eager"}
    if family == "llava_original":
        spec["vision_tower"] = str(tiny_llava_original.build_tower(tmp_path / "tower"))
    subject = load_subject(family, spec, folder, "cpu")
    text, name = told(folder), "base_lm" if family == "causal_lm" else "vlm"
    assert f"family {family}, {subject.n_layers} blocks of width {subject.d_model}" in text
    entry = lines_of(text)["models"][name]
    assert with_family({"models": {name: entry}})["models"][name]["family"] == family
    fixed = family not in ("causal_lm", "qwen_vl", "llava_original")
    assert ("tokens a picture" in text) == fixed
    if fixed:
        rows, columns = subject.grid_of((56, 84))
        assert f", {rows * columns + subject.unplaced} tokens a picture" in text


CLIP = {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}
SIGLIP = {"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14}
# What published checkpoints describe, and the tokens that their authors tell.
DESCRIBED = [
    ("llava", {"vision_config": CLIP}, 576),
    ("llava", {"vision_config": CLIP, "vision_feature_select_strategy": "full"}, 577),
    ("llava", {"vision_config": SIGLIP, "vision_feature_select_strategy": "full"}, 729),
    ("llava", {"vision_config": SIGLIP, "vision_feature_select_strategy": "default"}, 728),
    ("llava_next", {"vision_config": CLIP, "vision_feature_select_strategy": "default"}, 577),
    ("llava_next", {"vision_config": SIGLIP, "vision_feature_select_strategy": "full"}, 730),
    ("llava_next", {"vision_config": {"model_type": "clip_vision_model"}}, None),
    ("llava", {"vision_config": {**CLIP, "model_type": "dinov2"}}, None),
    ("llava", {"vision_config": {"model_type": "clip_vision_model"}}, None),
    ("paligemma", {"vision_config": {"image_size": 448, "patch_size": 14}}, 1024),
    ("idefics3", {"vision_config": {"image_size": 512, "patch_size": 16}, "scale_factor": 4}, 64),
    ("internvl", {"vision_config": {"image_size": [448, 448], "patch_size": [14, 14]}}, 256),
    ("gemma3", {"mm_tokens_per_image": 256}, 256),
    ("qwen_vl", {"vision_config": {"patch_size": 14}}, None),
    ("causal_lm", {}, None),
    ("paligemma", {"vision_config": None}, None),
]


@pytest.mark.parametrize(("family", "description", "count"), DESCRIBED)
def test_tokens_a_picture_that_config_json_tells(family, description, count):
    assert image_tokens(family, description) == count


def test_what_lies_below_a_folder_is_listed_and_what_is_too_deep_is_named(checkpoints, tmp_path):
    root = tmp_path / "mine"
    shutil.copytree(checkpoints["causal_lm"], root / "models" / "lm")
    published.write_sparsify(root / "saes" / "layers.3", random_weights())
    (root / "photos").mkdir()
    (root / "photos" / "samples.csv").write_text("image,prompt,answer\n")
    text = told(root)
    assert ": a dictionary of format sparsify, " in text and "Not looked into" not in text
    assert f"  {root / 'models' / 'lm'}: a checkpoint (llama)\n" in f"{text}\n"
    assert f"  {root / 'photos'}: samples" in text
    deep = root.joinpath(*"abcdefgh")
    deep.mkdir(parents=True)
    assert told(root).endswith(f"Not looked into: {deep.parent}.")
    (root / "models" / "lm" / "config.json").write_text("{")
    assert "models/lm: a checkpoint whose config.json is damaged" in told(root / "models")


def test_a_file_of_a_checkpoint_is_told_with_its_folder(checkpoints):
    folder = checkpoints["causal_lm"]
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        with pytest.raises(FormatError, match=f"{name}: found a file of a checkpoint; name the folder, "):
            told(folder / name)


def test_a_checkpoint_that_is_not_whole_is_told(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["causal_lm"], tmp_path / "lm")
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(FormatError, match="found a checkpoint: causal_lm.*but\n.*model.safetensors"):
        told(folder)


def test_data_are_told(tmp_path):
    photos = own_photos.write_photos(tmp_path / "photos", photos=5)
    for path in (photos, photos / "samples.csv"):
        text = told(path)
        assert "a data set: 20 samples in samples.csv, of groups left of (5), above (5)" in text
        assert lines_of(text) == {"data": str(path)}
    words = "one two three four five six seven eight nine"
    corpus = put(tmp_path / "corpus.txt", f"{words}\n{words} ten\n{words} more\n{words} again\n{words} now\n")
    assert "text for a language model: 5 documents of 49 words" in told(corpus)
    assert lines_of(told(corpus))["data"]["text"] == str(corpus)
    rows = [json.dumps({"text": f"{words} {number}"}) for number in range(6)]
    assert "6 documents" in told(put(tmp_path / "corpus.jsonl", "\n".join(rows)))


def test_the_command_prints_it(tmp_path, capsys):
    assert main([str(WRITE["sparsify"](tmp_path, 3))]) == 0
    printed = capsys.readouterr()
    assert "format sparsify" in printed.out and printed.err == ""


def test_what_is_neither_a_file_nor_a_folder_is_told(tmp_path):
    """A pipe would be waited for, and a folder may be called like a file."""
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(FormatError, match="found folder.pt, pipe.pt; this is nothing that is read here"):
        told(tmp_path)
    for path in (tmp_path / "pipe.pt", Path(os.devnull)):
        with pytest.raises(FormatError, match="found nothing there, expected a file or folder"):
            told(path)


def test_what_may_not_be_read_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path))

    def closed(_path):
        raise refused

    monkeypatch.setattr("vlmdiff.formats.told", closed)
    assert main([str(tmp_path)]) == 1
    assert (
        capsys.readouterr().err
        == f"{tmp_path} cannot be read (Permission denied); make it readable for you\n"
    )
    refused = StorageError("ae.pt: cannot be read")
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == "ae.pt: cannot be read\n"


@pytest.mark.parametrize("format", ["gemma_scope", "gemma_scope_2", "llama_scope", "openmoss", "sparsify"])
def test_a_later_layer_that_is_damaged_or_of_another_size_is_told(tmp_path, format):
    for layer in (3, 4):
        WRITE[format](tmp_path, layer)
    assert "2 dictionaries" in told(tmp_path)
    file = sorted(tmp_path.rglob(FILES[format][-1]))[1]
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    with pytest.raises(FormatError, match=f"`{format}`, which cannot be imported: .*{file.name}"):
        told(tmp_path)
    file.unlink()
    smaller = {
        name: one[..., : D_SAE // 2] if name != "W_dec" else one[: D_SAE // 2]
        for name, one in random_weights().items()
    }
    smaller["b_dec"] = random_weights()["b_dec"]
    narrow = WRITERS[format](tmp_path / "narrow", smaller)
    shutil.copy(narrow / FILES[format][-1], file)
    shutil.rmtree(narrow)
    with pytest.raises(
        FormatError, match=rf"found \(d_model, d_sae\) = \({D_MODEL}, {D_SAE // 2}\), expected"
    ):
        told(tmp_path)
