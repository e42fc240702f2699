"""Published files read here and by sae-lens encode and decode alike; what we write, sae-lens reads."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from published_dictionaries import (
    D_MODEL,
    D_SAE,
    K,
    random_weights,
    tokens,
    write_dictionary_learning,
    write_gemma_scope,
    write_gemma_scope_2,
    write_hub_cache,
    write_llama_scope,
    write_mmdiff,
    write_qwen_scope,
    write_saelens,
)
from saelens_checks import alike, same
from torch import Tensor

from vlmdiff.config.releases import meant
from vlmdiff.dictionaries.batch_topk import BatchTopKDictionary
from vlmdiff.dictionaries.files import PublishedSource, load_dictionary, save_dictionary
from vlmdiff.dictionaries.modules import Dictionary, JumpReLUDictionary, TopKDictionary
from vlmdiff.dictionaries.published.convert import read_published
from vlmdiff.dictionaries.weights import DictionaryError

sae_lens = pytest.importorskip("sae_lens", reason="compares with sae-lens: pip install -r envs/peers.txt")
from sae_lens.loading import pretrained_sae_loaders as loaders  # noqa: E402

FOURTH_FACTOR = 20.177339901477833  # what sae-lens knows of layer 3 of Llama Scope
LLAMA_NORMS = {"in": D_MODEL**0.5 / FOURTH_FACTOR, "out": D_MODEL**0.5 / FOURTH_FACTOR}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Let huggingface_hub, which is offline in tests, look into an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def exact_unit_rows() -> dict[str, Tensor]:
    """Weights whose rows have unit norm in any precision: all their values are 1/4 or -1/4."""
    weights = random_weights(3)
    weights["W_dec"] = weights["W_dec"].sign() / 4
    return weights


@pytest.mark.parametrize(
    ("weights", "by_norm"), [(random_weights(2), False), (exact_unit_rows(), True)], ids=["any", "unit"]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def test_llama_scope(tmp_path, cache, weights, by_norm, dtype):
    changes = {"sparsity_include_decoder_norm": by_norm, "dataset_average_activation_norm": LLAMA_NORMS}
    changes["jump_relu_threshold"] = 0.02
    folder = write_llama_scope(tmp_path / "Llama3_1-8B-Base-L3R-8x", weights, dtype, **changes)
    files = {f"{folder.name}/{p.relative_to(folder)}": p for p in folder.rglob("*") if p.is_file()}
    write_hub_cache(cache, "fnlp/Llama3_1-8B-Base-LXR-8x", files)
    sae = sae_lens.SAE.from_pretrained("llama_scope_lxr_8x", "l3r_8x")
    dictionary = load_dictionary(PublishedSource("llama_scope", folder))
    assert dictionary.kind == "jumprelu" and not dictionary.subtract_decoder_bias
    same(dictionary, sae, tokens(scale=0.1))
    same(load_dictionary("saelens:llama_scope_lxr_8x/l3r_8x"), sae, tokens(scale=0.1))


def small_gemma_scope(cfg_overrides, **options):
    """Read by sae-lens' own loader, which would take the sizes of Gemma 2 from the names."""
    sizes = {"d_in": D_MODEL, "d_sae": D_SAE}
    return loaders.gemma_2_sae_huggingface_loader(cfg_overrides={**cfg_overrides, **sizes}, **options)


@pytest.mark.parametrize("threshold", ["positive", "some zero"])
def test_gemma_scope(tmp_path, cache, threshold):
    weights = random_weights(4)
    if threshold == "some zero":
        weights["threshold"][::3] = 0
        weights["threshold"][1] = -0.5
    name = "layer_7/width_16k/average_l0_69"
    folder = write_gemma_scope(tmp_path / name, weights)
    write_hub_cache(cache, "google/gemma-scope-2b-pt-res", {f"{name}/params.npz": folder / "params.npz"})
    sae = sae_lens.SAE.from_pretrained("gemma-scope-2b-pt-res", name, converter=small_gemma_scope)
    for path in (folder, folder / "params.npz"):
        same(load_dictionary(PublishedSource("gemma_scope", path)), sae, tokens())


SECOND_CONFIG = {
    "architecture": "jump_relu",
    "model_name": "gemma-v3-4b-it",
    "hf_hook_point_in": "model.layers.17.output",
}


@pytest.mark.parametrize("config", [None, SECOND_CONFIG], ids=["bare", "config"])
def test_gemma_scope_2(tmp_path, cache, monkeypatch, config):
    """Sae-lens asks the hub for shapes; here it is told them. Some folders have no config.json."""
    weights = random_weights(7)
    weights["threshold"][1] = -0.5
    name = "resid_post/layer_17_width_16k_l0_small"
    folder = write_gemma_scope_2(tmp_path / name, weights, config)
    repository = "google/gemma-scope-2-4b-it"
    write_hub_cache(cache, repository, {f"{name}/{file.name}": file for file in folder.iterdir()})
    shapes = {"w_enc": [D_MODEL, D_SAE], "w_dec": [D_SAE, D_MODEL]}
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", lambda *_: shapes)
    if config is None:
        told = partial(loaders._infer_gemma_3_raw_cfg_dict, repository, name)
        monkeypatch.setattr(loaders, "get_gemma_3_config_from_hf", bare_config(told))
    sae = sae_lens.SAE.from_pretrained("gemma-scope-2-4b-it-res", "layer_17_width_16k_l0_small")
    source = PublishedSource("gemma_scope_2", folder)
    same(load_dictionary(source), sae, tokens())
    found = read_published(source)
    assert found.model == (config or {}).get("model_name") and bool(found.place.names) == bool(config)


def bare_config(told):
    """Return sae-lens' own reading of a configuration where the hub says that there is none."""
    real = loaders.get_gemma_3_config_from_hf

    def found(*arguments, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loaders, "hf_hub_download", absent)
            return real(*arguments, **options)

    def absent(*_, **__):
        raise loaders.EntryNotFoundError("no config.json")

    assert told()["architecture"] == "jump_relu"
    return found


def test_a_transcoder_of_gemma_scope_2_is_refused(tmp_path):
    weights = random_weights(8)
    skip = {**weights, "affine_skip_connection": torch.zeros(D_MODEL, D_MODEL)}
    folder = write_gemma_scope_2(tmp_path / "layer_3", skip)
    with pytest.raises(DictionaryError, match="a transcoder, not a dictionary"):
        load_dictionary(PublishedSource("gemma_scope_2", folder))
    other = write_gemma_scope_2(tmp_path / "layer_4", weights, {"architecture": "topk"})
    with pytest.raises(DictionaryError, match="architecture is 'topk', expected 'jump_relu'"):
        load_dictionary(PublishedSource("gemma_scope_2", other))
    with pytest.raises(DictionaryError, match="`k` is for mmdiff and qwen_scope"):
        load_dictionary(PublishedSource("gemma_scope_2", folder, k=4))


def test_qwen_scope(tmp_path, cache):
    """Its rows are of unit norm, by which sae-lens' TopK is ours."""
    weights = random_weights(9, unit_rows=True)
    path = write_qwen_scope(tmp_path / "layer1.sae.pt", weights)
    write_hub_cache(cache, "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50", {path.name: path})
    sizes = {"d_in": D_MODEL, "d_sae": D_SAE, "activation_fn_kwargs": {"k": K}}

    def small(cfg_overrides, **options):
        return loaders.qwen_scope_sae_huggingface_loader(cfg_overrides={**cfg_overrides, **sizes}, **options)

    sae = sae_lens.SAE.from_pretrained("qwen-scope-3-1.7b-base-w32k-l50", "layer1", converter=small)
    same(load_dictionary(PublishedSource("qwen_scope", path, K)), sae, tokens())
    with pytest.raises(DictionaryError, match="no file of Qwen Scope tells its k"):
        load_dictionary(PublishedSource("qwen_scope", path))


@pytest.mark.parametrize(
    "name",
    ["AutoEncoder", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"],
)
def test_dictionary_learning(tmp_path, cache, name):
    """Rows are of unit norm, by which sae-lens' TopK is ours."""
    weights = random_weights(10, unit_rows=True)
    file = "resid_post_layer_3/trainer_0"
    folder = write_dictionary_learning(tmp_path / file, weights, name)
    write_hub_cache(cache, "someone/saes", {f"{file}/{one.name}": one for one in folder.iterdir()})
    sae = sae_lens.SAE.from_pretrained(
        "someone/saes", file, converter=loaders.dictionary_learning_sae_huggingface_loader_1
    )
    same(load_dictionary(PublishedSource("dictionary_learning", folder)), sae, tokens())


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
def test_mmdiff(tmp_path, kind, subtract):
    """No loader of sae-lens reads these files; its classes take their tensors as they are."""
    weights = random_weights(5, unit_rows=True)
    if kind == "topk":
        del weights["threshold"]
    path = write_mmdiff(tmp_path / "text-only_layer_4.pt", weights)
    sizes = {"d_in": D_MODEL, "d_sae": D_SAE, "apply_b_dec_to_input": subtract}
    if kind == "topk":
        sae = sae_lens.TopKSAE(sae_lens.TopKSAEConfig(**sizes, k=K))
    else:
        sae = sae_lens.JumpReLUSAE(sae_lens.JumpReLUSAEConfig(**sizes))
    sae.load_state_dict(torch.load(path, weights_only=True))
    k = K if kind == "topk" else None
    same(load_dictionary(PublishedSource("mmdiff", path, k, subtract)), sae, tokens())


def their_classes(architecture: str, **options) -> "sae_lens.SAE":
    """Return a random SAE of sae-lens's own; `options` go to its configuration."""
    name = {"standard": "StandardSAE", "topk": "TopKSAE", "jumprelu": "JumpReLUSAE"}[architecture]
    config = getattr(sae_lens, f"{name}Config")(d_in=D_MODEL, d_sae=D_SAE, **options)
    sae = getattr(sae_lens, name)(config)
    weights = random_weights(6)
    sae.load_state_dict({name: weights[name] for name in sae.state_dict()})
    return sae


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu"])
def test_folder_that_saelens_wrote(tmp_path, architecture, subtract):
    options = {"k": K, "rescale_acts_by_decoder_norm": True} if architecture == "topk" else {}
    sae = their_classes(architecture, apply_b_dec_to_input=subtract, **options)
    sae.save_model(tmp_path / "sae")
    same(load_dictionary(tmp_path / "sae"), sae_lens.SAE.load_from_disk(tmp_path / "sae"), tokens())


def test_topk_that_chooses_regardless_of_norms_keeps_its_choice(tmp_path):
    sae = their_classes("topk", k=K)
    sae.save_model(tmp_path / "sae")
    same(load_dictionary(tmp_path / "sae"), sae, tokens())


def test_topk_whose_rows_have_the_same_norm_is_brought_to_unit_rows(tmp_path):
    sae = their_classes("topk", k=K)
    with torch.no_grad():
        sae.W_dec.mul_(3 / sae.W_dec.norm(dim=1, keepdim=True))
    sae.save_model(tmp_path / "sae")
    same(load_dictionary(tmp_path / "sae"), sae, tokens())


def test_sixteen_bit_folder_is_widened(tmp_path):
    sae = their_classes("jumprelu").to(dtype=torch.bfloat16)
    sae.save_model(tmp_path / "sae")
    assert json.loads((tmp_path / "sae" / "cfg.json").read_text())["dtype"] == "bfloat16"
    dictionary = load_dictionary(tmp_path / "sae")
    assert dictionary.W_enc.dtype == torch.float32
    same(dictionary, sae_lens.SAE.load_from_disk(tmp_path / "sae", dtype="float32"), tokens())


def test_expected_average_scale_is_folded(tmp_path):
    sae = their_classes("jumprelu", normalize_activations="expected_average_only_in")
    sae.save_model(tmp_path / "sae")
    (tmp_path / "sae" / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 2.7}))
    sae.fold_activation_norm_scaling_factor(2.7)
    same(load_dictionary(tmp_path / "sae"), sae, tokens())
    given = PublishedSource("saelens", tmp_path / "sae", input_scale=2.7)
    same(load_dictionary(given), sae, tokens())


OLD = {
    "model_name": "gpt2-small",
    "hook_point": "blocks.3.hook_resid_post",
    "hook_point_layer": 3,
    "hook_point_head_index": None,
    "dtype": "float32",
    "device": "cpu",
}


@pytest.mark.parametrize(
    "config",
    [
        OLD,
        {**OLD, "normalize_activations": False, "apply_b_dec_to_input": False},
        {**OLD, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "sae_lens_version": "3.2.1"},
        {**OLD, "architecture": "jumprelu", "normalize_activations": "none", "sae_lens_version": "5.10.3"},
        {**OLD, "architecture": "topk", "activation_fn_kwargs": {"k": K}, "sae_lens_version": "5.10.3"},
    ],
    ids=["2.x", "2.x without b_dec", "3.x topk", "5.x jumprelu", "5.x topk"],
)
def test_folder_of_an_earlier_version(tmp_path, config):
    weights = random_weights(7, unit_rows=True)
    if config.get("architecture") != "jumprelu":
        del weights["threshold"]
    weights["scaling_factor"] = torch.ones(D_SAE)
    folder = write_saelens(tmp_path / "sae", weights, config)
    same(load_dictionary(folder), sae_lens.SAE.load_from_disk(folder), tokens())


@pytest.mark.parametrize(
    ("release", "file"),
    [
        ("gemma-scope-2b-pt-res-canonical", "layer_{layer}/width_16k/canonical"),
        ("gemma-scope-2-4b-it-res", "layer_{layer}_width_65k_l0_medium"),
        ("llama_scope_lxr_8x", "l{layer}r_8x"),
        ("qwen-scope-3-1.7b-base-w32k-l100", "layer{layer}"),
        ("gemma-2b-res-jb", "blocks.{layer}.hook_resid_post"),
    ],
)
def test_a_release_of_the_config_is_the_repository_and_path_that_saelens_loads(release, file):
    from sae_lens.loading import pretrained_saes_directory as directory

    found = meant("dictionaries.base", {"source": f"saelens:{release}@main", "file": file})
    assert found["by_layer"]["release_path"]
    for layer, path in found["by_layer"]["release_path"].items():
        theirs = directory.get_repo_id_and_folder_name(release, file.format(layer=layer))
        assert (found["source"], path) == (f"hub:{theirs[0]}@main", theirs[1])
        scale = directory.get_norm_scaling_factor(release, file.format(layer=layer))
        assert release.startswith("llama_scope") or found.get("input_scale", {}).get(layer) == scale
    told = loaders.get_qwen_scope_config_from_hf(theirs[0], path, "cpu") if "qwen" in release else {}
    assert found.get("k") == told.get("activation_fn_kwargs", {}).get("k")


def test_release_and_id_that_saelens_does_not_have(cache):
    with pytest.raises(DictionaryError, match=r"id 'layer_99' of release 'gemma-scope-2b-pt-res'.*not found"):
        load_dictionary("saelens:gemma-scope-2b-pt-res/layer_99")


def test_release_that_is_not_in_the_cache(cache):
    with pytest.raises(DictionaryError, match="HF_HUB_OFFLINE.*has to be in the Hugging Face cache"):
        load_dictionary("saelens:llama_scope_lxr_8x/l3r_8x")


def test_release_by_repository(tmp_path, cache):
    sae = their_classes("jumprelu")
    sae.save_model(tmp_path / "sae")
    names = ("cfg.json", "sae_weights.safetensors")
    write_hub_cache(cache, "someone/saes", {f"blocks.1/{name}": tmp_path / "sae" / name for name in names})
    # As after a download: that there is no such file is known too.
    absent = cache / "models--someone--saes" / ".no_exist" / ("a" * 40) / "blocks.1" / "sparsity.safetensors"
    absent.parent.mkdir(parents=True)
    absent.touch()
    same(load_dictionary("saelens:someone/saes/blocks.1"), sae, tokens())


def ours(kind: str, subtract: bool) -> Dictionary:
    weights = random_weights(8, unit_rows=True)
    if kind == "topk":
        dictionary = TopKDictionary(D_MODEL, D_SAE, K, subtract)
        del weights["threshold"]
    else:
        dictionary = JumpReLUDictionary(D_MODEL, D_SAE, subtract_decoder_bias=subtract)
        weights["log_threshold"] = weights.pop("threshold").log()
    dictionary.load_state_dict(weights)
    return dictionary


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
def test_what_we_write_saelens_reads(tmp_path, kind, subtract):
    dictionary = ours(kind, subtract)
    save_dictionary(dictionary, tmp_path / "ours", {"model": "vlm", "layer": 3})
    sae = sae_lens.SAE.load_from_disk(tmp_path / "ours")
    same(dictionary, sae, tokens())
    assert sae.cfg.architecture() == kind and sae.cfg.metadata.layer == 3
    sae.save_model(tmp_path / "theirs")
    same(load_dictionary(tmp_path / "theirs"), sae, tokens())


def test_an_imported_relu_dictionary_is_exported_as_jumprelu_with_thresholds_of_zero(tmp_path):
    sae = their_classes("standard")
    sae.save_model(tmp_path / "sae")
    save_dictionary(load_dictionary(tmp_path / "sae"), tmp_path / "ours", {})
    exported = sae_lens.SAE.load_from_disk(tmp_path / "ours")
    assert exported.cfg.architecture() == "jumprelu" and not exported.threshold.any()
    same(load_dictionary(tmp_path / "ours"), sae, tokens())
    same(load_dictionary(tmp_path / "ours"), exported, tokens())


def test_batch_topk_chooses_as_theirs_and_is_read_as_jumprelu(tmp_path):
    from sae_lens.saes.batchtopk_sae import BatchTopK

    dictionary, x = BatchTopKDictionary(D_MODEL, D_SAE, K), tokens()
    weights = random_weights(6, unit_rows=True)
    with torch.no_grad():
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            getattr(dictionary, name).copy_(weights[name])
    alike(dictionary.encode(x), BatchTopK(K)(dictionary.pre_activations(x)))
    dictionary.reconstruct(x)
    save_dictionary(dictionary.as_used(), tmp_path / "used", {})
    same(dictionary.as_used(), sae_lens.SAE.load_from_disk(tmp_path / "used"), x)
