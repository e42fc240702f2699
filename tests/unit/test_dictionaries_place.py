"""Where a dictionary was trained: every spelling is read, and what does not fit the layer is refused."""

import json

import pytest
from published_dictionaries import (
    D_MODEL,
    D_SAE,
    random_weights,
    write_gemma_scope,
    write_llama_scope,
    write_mmdiff,
    write_saelens,
)

from vlmdiff.dictionaries.importing import fetch_dictionary, import_dictionary
from vlmdiff.dictionaries.published.place import (
    block_after,
    check_place,
    place_in,
    place_in_path,
    place_of_file,
)
from vlmdiff.dictionaries.weights import DictionaryError

# What each name stands for in its library: the output of this block, -1 the embeddings, None another place.
SPELLINGS = {
    "blocks.1.hook_resid_post": 1,
    "blocks.2.hook_resid_pre": 1,
    "blocks.0.hook_resid_pre": -1,
    "blocks.12.hook_resid_post": 12,
    "blocks.1.hook_out": 1,
    "model.layers.1": 1,
    "layers.1": 1,
    "model.layers.7.output": 7,
    "model.layers.7.input": 6,
    "language_model.model.layers.1": 1,
    "model.language_model.layers.21": 21,
    "model.text_model.layers.3": 3,
    "transformer.h.1": 1,
    "h.11": 11,
    "gpt_neox.layers.1": 1,
    "model.decoder.layers.4": 4,
    "resid_post_layer_8": 8,
    "resid_pre_layer_8": 7,
    "blocks.1.hook_resid_mid": None,
    "blocks.1.hook_mlp_out": None,
    "blocks.1.hook_attn_out": None,
    "blocks.1.attn.hook_z": None,
    "blocks.1.ln2.hook_normalized": None,
    "hook_embed": None,
    "layers.1.mlp": None,
    "model.layers.1.self_attn": None,
    "model.layers.1.mlp.output": None,
    "vision_tower.vision_model.encoder.layers.1": None,
    "attn_out_layer_8": None,
    "model.layers.one": None,
    "residual stream 1": None,
}


@pytest.mark.parametrize(("name", "block"), SPELLINGS.items())
def test_spellings_of_a_place(name, block):
    assert block_after(name) == block


@pytest.fixture
def load(tmp_path):
    """Import one folder of SAELens' layout with a configuration, as a layer of an experiment."""

    def run(layer, config, file="sae"):
        write_saelens(tmp_path / file, random_weights(), {"architecture": "jumprelu", **config})
        return imported(tmp_path, "saelens", file, layer)

    return run


def imported(root, format, file, layer):
    """Import one layer and return its configuration."""
    options = {"k": None, "subtract_decoder_bias": None, "input_scale": None}
    fetch_dictionary(str(root), format, {layer: file}, root / "sources.json")
    import_dictionary(
        root / "sources.json", layer, format, options, (D_MODEL, D_SAE), {"dictionary": "base"}, root / "out"
    )
    return json.loads((root / "out" / "cfg.json").read_text())


V6 = {"sae_lens_version": "6.54.0"}
POST = "blocks.1.hook_resid_post"


@pytest.mark.parametrize(
    ("layer", "config"),
    [
        (1, {**V6, "metadata": {"hook_name": "model.layers.1", "hook_head_index": None}}),
        (1, {**V6, "metadata": {"hook_name": "blocks.2.hook_resid_pre", "hf_hook_name": "model.layers.1"}}),
        (1, {"hook_name": "blocks.2.hook_resid_pre", "hook_layer": 2}),
        (3, {"hook_point": "blocks.3.hook_resid_post", "hook_point_layer": 3, "hook_point_head_index": None}),
        (3, {"hook_point": "transformer.h.3", "hook_name": ""}),
        (3, {"metadata": {"layer": 3}}),
        (3, {"metadata": {"hook_name": "layers.3", "hook_name_out": "blocks.3.hook_resid_post"}}),
        (5, {}),
    ],
)
def test_a_place_that_fits_is_taken(load, layer, config):
    assert load(layer, config)["metadata"]["layer"] == layer


@pytest.mark.parametrize(
    ("layer", "config", "words"),
    [
        (0, {"hook_name": "model.layers.1"}, "trained at model.layers.1, expected blocks.0.hook_resid_post"),
        (0, {**V6, "metadata": {"hook_name": "model.layers.1"}}, "metadata.hook_name: was trained at"),
        (2, {"hook_name": "blocks.2.hook_resid_pre"}, "trained at blocks.2.hook_resid_pre.*after block 1"),
        (0, {"hook_name": "blocks.0.hook_resid_pre"}, "before all blocks"),
        (1, {"hook_name": "blocks.1.hook_resid_mid"}, "not known as the output.*known are blocks.N"),
        (1, {"hook_point": "blocks.1.hook_mlp_out"}, "hook_point is 'blocks.1.hook_mlp_out'.*not known"),
        (1, {"hook_name": "model.layers.1.self_attn"}, "not known"),
        (1, {"hook_name": "somewhere in block 1"}, "not known"),
        (1, {"hook_name": POST, "hook_head_index": 3}, "hook_head_index is 3.*one head"),
        (1, {"hook_name": POST, "hook_layer": 2}, "hook_layer tells layer 2, expected 1"),
        (1, {"hook_point_layer": 2}, "hook_point_layer tells layer 2, expected 1"),
        (1, {"hook_name": POST, "metadata": {"hook_name": "model.layers.2"}}, "metadata.hook_name"),
        (1, {"hook_name": "model.layers.1", "hook_name_out": "blocks.1.hook_mlp_out"}, "hook_name_out is"),
        (1, {"metadata": {"hook_name": "model.layers.1", "hf_hook_name": "model.layers.2"}}, "hf_hook_name"),
        (1, {"metadata": {"layer": 4}}, "metadata.layer tells layer 4"),
        (1, {"hook_layer": "1"}, "hook_layer is '1', expected a layer"),
        (1, {"hook_name": 1}, "hook_name is 1, expected text"),
    ],
)  # fmt: skip
def test_another_or_unknown_place_is_refused(load, tmp_path, layer, config, words):
    with pytest.raises(DictionaryError, match=f"sae: .*{words}"):
        load(layer, config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "layer"),
    [
        ("layer_12/width_16k/average_l0_22", 12),
        ("layer_2/width_16k/average_l0_105", 2),
        ("Llama3_1-8B-Base-L12R-8x", 12),
        ("l3r_8x", 3),
        ("L7", 7),
        ("llava_more/topk_text_only/text-only_layer_13.pt", 13),
        ("sae/layers.4", 4),
        ("blocks.5.hook_resid_pre", 4),
        ("resid_post_layer_9/trainer_0", 9),
        ("SAE-Res-Qwen3-1.7B-Base-W32K-L0_50/layer3.sae.pt", 3),
        ("l8_pre", 7),
        ("run_17/final", 5),
    ],
)
def test_layers_in_paths(file, layer):
    check_place(place_in_path(file), file, layer)
    if "run" not in file:
        with pytest.raises(DictionaryError, match=f"layer {layer + 1}; correct `file`"):
            check_place(place_in_path(file), file, layer + 1)


@pytest.mark.parametrize(
    "file",
    ["Llama3_1-8B-Base-L12M-8x", "l12tc_8x", "mlp_out/layer_12", "embedding/width_4k", "layers.12.mlp"],
)
def test_paths_of_other_places_are_refused(file):
    with pytest.raises(DictionaryError, match="not the residual stream|not known as the output"):
        check_place(place_in_path(file), file, 12)


def test_a_folder_is_held_against_what_its_files_tell(load):
    """A folder may count as its hook does (the input of block 12 is the output of block 11) or as we do."""
    for file in ("layer_11", "layer_12"):
        assert load(11, {"hook_name": "blocks.12.hook_resid_pre"}, file)["metadata"]["layer"] == 11
    with pytest.raises(DictionaryError, match="path 'layer_10' tells layer 10, expected 11, 12"):
        load(11, {"hook_name": "blocks.12.hook_resid_pre"}, "layer_10")


@pytest.mark.parametrize("format", ["gemma_scope", "mmdiff", "llama_scope"])
def test_paths_of_every_format_are_held_against_the_layer(tmp_path, format):
    if format == "gemma_scope":
        file = write_gemma_scope(tmp_path / "layer_4/width_16k", random_weights())
    elif format == "mmdiff":
        file = write_mmdiff(tmp_path / "text-only_layer_4.pt", random_weights())
    else:
        point = "blocks.4.hook_resid_post"
        changes = {"hook_point_in": point, "hook_point_out": point}
        file = write_llama_scope(tmp_path / "L4R-8x", random_weights(), **changes)
    name = str(file.relative_to(tmp_path))
    assert imported(tmp_path, format, name, 4)["metadata"]["layer"] == 4
    with pytest.raises(DictionaryError, match="layer 4|blocks.4"):
        imported(tmp_path, format, name, 3)


def test_repositories_of_other_places_are_refused(tmp_path):
    root = tmp_path / "gemma-scope-2b-pt-mlp"
    write_gemma_scope(root / "layer_4", random_weights())
    with pytest.raises(DictionaryError, match="gemma-scope-2b-pt-mlp.*not the residual stream"):
        imported(root, "gemma_scope", "layer_4", 4)


@pytest.mark.parametrize(
    "config",
    [
        {"hook_module": "model.layers.1"},
        {"module": "model.layers.1"},
        {"module": "layers.1.mlp"},
        {"target": "h.1"},
        {"target": "model.layers[1]"},
        {"location": "blocks.1.hook_mlp_out"},
        {"location": "mlp_out", "layer": 0},
        {"component": "attn", "layer": 0},
        {"sae_id": "gpt2/blocks.1.hook_resid_post"},
        {"submodule": "attn_out_layer_0"},
        {"hookpoints": ["layers.1"]},
        {"hookpoints": ["layers.1", "layers.2"]},
        {"hook_layers": [1]},
        {"layers": [1]},
        {"hook_layer": [1, 2]},
        {"hook_point_layers": 1},
        {"layer_idx": 1},
        {"layerIndex": 1},
        {"sae_layer": 1},
        {"block": 1},
        {"hook_name_in": "blocks.1.hook_resid_post"},
        {"hf_hook_name_in": "model.layers.1"},
        {"sae": {"hook_name": "blocks.1.hook_resid_post"}},
        {"cfg": {"hook_point": "blocks.1.hook_mlp_out"}},
        {"cfg": {"hook_point": "blocks.0.hook_mlp_out"}},
        {"metadata": {"model": {"hook_name": "blocks.1.hook_resid_post"}}},
        {"saes": [{"place": {"layer": 1}}]},
        {"trainer": {"layer": 1, "submodule_name": "resid_post_layer_1"}},
        {"cfg": {"hook_head_index": 0}},
        {"layer": 0, "kind": "transcoder"},
        {"layer": 0, "architecture": "CrossCoder"},
        {"layer": 0, "hook_type": "resid_mid"},
        {"layer": 0, "component": "vision_tower"},
        {"layer": 0, "io": "in_and_out"},
        {"layer": 0, "transcode": True},
        {"layer": 0, "sae": {"is_transcoder": True}},
    ],
    ids=json.dumps,
)
def test_every_key_that_tells_another_place_is_read(config):
    with pytest.raises(DictionaryError, match="imported as layer 0"):
        check_place(place_in(config, "cfg.json"), "cfg.json", 0)


@pytest.mark.parametrize("number", ["config", "path"])
@pytest.mark.parametrize(
    "config",
    [
        {"site": "resid_pre"},
        {"location": "residual_pre"},
        {"cfg": {"hookType": "ResidPre"}},
        {"io": "in"},
        {"stream": "residual_stream_input"},
        {"activation_site": "pre"},
    ],
    ids=json.dumps,
)
def test_layers_may_count_by_their_input(config, number):
    place = place_in({**config, "layer": 8} if number == "config" else config, "cfg.json")
    place |= place_in_path("layer_8" if number == "path" else "sae")
    check_place(place, "cfg.json", 7)
    with pytest.raises(DictionaryError, match=r"tells layer 8 by its input \(.* is '.*'\), expected 9"):
        check_place(place, "cfg.json", 8)


@pytest.mark.parametrize(
    "config",
    [
        {"n_layers": 26, "num_layers": 26, "num_hidden_layers": 26, "layers": 26, "encoder_layers": 1},
        {"n_layer": 12, "total_layers": 12, "layer_norm_eps": 1, "layer_count": 4, "block_size": 128},
        {"hookpoints": ["layers.2", "layers.3"], "layers": [2, 3], "layer_stride": 1},
        {"normalize_activations": "layer_norm", "hook_eval": "NOT_IN_USE", "seqpos_slice": [None]},
        {"model_name": "pythia-70m-layers.6", "dataset_path": "corpora/layers.1", "run_name": "blocks.1"},
        {"checkpoint_path": "out/blocks.1.hook_mlp_out", "target": "activations", "module": "encoder"},
        {"hook_layers": [], "hook_name": None, "hook_point": "", "hook_head_index": None},
        {"module": "model.layers.3", "layer_idx": 3, "cfg": {"hook_name_in": "blocks.4.hook_resid_pre"}},
        {"description": "trained beside the MLP of layers.1", "activation_fn": "relu"},
        {"layer": 3, "site": "resid_post", "io": "out", "transcode": False, "kind": "topk"},
        {"layer": 3, "type": "residual", "model_type": "clip_vision_model", "dtype": "float32"},
        {"layer": 4, "hook_name": "blocks.4.hook_resid_pre", "site": "resid_pre"},
    ],
    ids=json.dumps,
)
def test_keys_that_tell_no_place_are_none(config):
    check_place(place_in(config, "cfg.json"), "cfg.json", 3)


@pytest.mark.parametrize(
    "file",
    [
        "layers_1", "block_1", "blocks_1", "layer.1", "Layer 1/params.npz", "resid_post_1",
        "sae_l1", "L01", "1/params.npz", "blk.1.pt", "saeLayer1", "attn_only_model/layer1", "gpt2_blocks.1",
        "gemma-L1R-8x", "1", "train_layer_1.pt", "l1/16k", "resid_pre/layer_2", "resid_pre_2",
        "residual_pre_layer_2.pt", "layer_2_input.pt", "ResidPre/layer_2", "layer_2/pre", "pre_layer_2",
        "residual_stream_pre/layer_2", "input_block_2", "layer_2_in.pt", "resid_input/layer_2",
        "residual_pre_2",
    ],
)  # fmt: skip
def test_every_spelling_of_a_layer_in_a_path_is_read(file):
    check_place(place_in_path(file), file, 1)
    for layer in (0, 2):
        with pytest.raises(DictionaryError, match=f"the path '.*as layer {layer};"):
            check_place(place_in_path(file), file, layer)


@pytest.mark.parametrize(
    "file",
    [
        "mlp_out_layer_1.pt", "layer_1_mlp", "layer1_attn_out.pt", "attn-layer_1.pt", "resid_mid_layer_1",
        "text-only_mlp_layer_1.pt", "layer_1/transcoder_width", "layer_1.mlp.sae.pt", "res/layer_1-att",
        "layer_1/attention", "layer_1-hook_z", "mlp-layers.1", "crosscoder/layer_1",
        "mlps/layer_1.pt", "mlp1_layer_1.pt", "res_mid_layer_1.pt", "layer_1_q_proj.pt", "layer_1_ln2.pt",
        "vision_tower_layer_1.pt", "feed_forward/layer_1", "FeedForward/layer_1", "hook_q/layer_1",
        "embed_layer_1", "layer_1_head_3", "L1H3/layer_1", "final_norm/layer_1", "clip_vision/layer_1",
        "clip-ViT-L/layer_1", "CrossCoder/layer_1", "ResidMid/layer_1", "layer_1_down_proj", "ln_f/layer_1",
    ],
)  # fmt: skip
def test_other_parts_beside_the_right_layer_are_refused(file):
    with pytest.raises(DictionaryError, match="names another part of a block"):
        check_place(place_in_path(file), file, 1)


@pytest.mark.parametrize(
    "file",
    [
        "layer_3/width_16k/average_l0_40", "layer_3_width_16k_l0_small", "SAE-W32K-L0_50/layer3.sae.pt",
        "n_layers_26/layer_3", "num-layers-12/layer_3", "TinyStories-1Layer-21M/layer_3", "seed_0/trainer_1",
        "llava-v1.5-mlp2x-336px/layer_3", "mlp_projector/layer_3", "no_attention_sinks/layer_3",
        "block_size/3", "gelu-2l/layer_3", "sae_l1_8e-05/3", "topk_text_only/text-only_layer_3.pt",
        "1/layer_3/0", "width_16k", "average_l0_40", "l1_0.1", "smlp_7b/layer_3",
        "flash_attention/layer_3", "layer_3.pth", "gemma_2b_blocks.3.hook_resid_post_16384_anthropic_fast_lr",
        "blocks.3.hook_resid_post__trainer_0", "blocks.4.hook_resid_pre_16k", "llava_mlp2_projector/layer_3",
        "layer_3/pre-trained", "layer_3/in_distribution", "layer_3_pretrained", "inputs/layer_3",
        "top_k_projected/layer_3",
        "layer_3/input_scale_1", "vision-language/layer_3", "residual/layer_3", "res/layer_3_init",
    ],
)  # fmt: skip
def test_what_tells_no_other_place_in_a_path_is_taken(file):
    check_place(place_in_path(file), file, 3)


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("/data/gemma-scope/layer_1/width_16k/average_l0_40", "params.npz"),
        ("/data/Llama3_1-8B-Base-L1R-8x", "."),
        ("hub:fnlp/Llama3_1-8B-Base-L1R-8x@main", "."),
        ("/data/blocks.1.hook_resid_post", "sae"),
        ("/data/gemma-scope-2b-pt-mlp/", "layer_0/x"),
        ("/data/gemma-scope-2b-pt-att/sub", "layer_0/x"),
        ("/data/gemma-scope-2b-pt-mlp/layer_0/width_16k/average_l0_40", "params.npz"),
        ("hub:google/gemma-scope-2b-pt-att@main", "layer_0/x"),
        ("saelens:gpt2-small-resid-mid-v5-32k", "layer_0"),
        ("saelens:llama_scope_lxm_8x", "l0"),
        ("/data/gpt2-resid-pre", "layer_0"),
    ],
)
def test_the_source_tells_a_place_too(source, file):
    with pytest.raises(DictionaryError, match="imported as layer 0"):
        check_place(place_of_file(source, file), file, 0)


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("/home/me/layer_5_study/saes", "layer_0/params.npz"),
        ("/home/attention/mlp/saes/gemma-scope-2b-pt-res", "layer_0/width_16k/average_l0_105"),
        ("/data/gemma-scope/layer_0/width_16k/average_l0_40", "params.npz"),
        ("hub:fnlp/Llama3_1-8B-Base-LXR-8x@main", "Llama3_1-8B-Base-L0R-8x"),
        ("hub:mlp-lab/saes@layer_1", "sae"),
        ("/mnt/7/saes", "sae"),
        (".", "sae"),
    ],
)
def test_a_source_may_be_called_otherwise(source, file):
    check_place(place_of_file(source, file), file, 0)


def test_a_checkpoint_of_mmdiff_may_tell_its_place(tmp_path):
    file = write_mmdiff(tmp_path / "sae.pt", {"sae": random_weights(), "cfg": {"hook": "blocks.4.hook_out"}})
    assert imported(tmp_path, "mmdiff", "sae.pt", 4)["metadata"]["hook"] == "blocks.4.hook_out"
    with pytest.raises(DictionaryError, match=f"{file.name}: cfg.hook: was trained at blocks.4"):
        imported(tmp_path, "mmdiff", "sae.pt", 0)
