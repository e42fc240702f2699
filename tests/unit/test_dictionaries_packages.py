"""Files that their authors' packages write are read here as those packages read them.

Packages that are not installed are left out: eai-sparsify, dictionary-learning (or the fork of arXiv
2504.02922, of the same name) and llamascopium stand in no environment of this project for tests.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from published_dictionaries import D_MODEL, D_SAE, K, learnt_state, random_weights, tokens, write_openmoss
from safetensors.torch import load_file
from torch import Tensor

from vlmdiff.dictionaries.files import PublishedSource, load_dictionary
from vlmdiff.dictionaries.published.convert import read_published
from vlmdiff.dictionaries.published.place import check_place


@torch.no_grad()
def alike(source: PublishedSource, z: Tensor, rows: Tensor, x_hat: Tensor, x: Tensor) -> None:
    """Compare with activations of a package in its own units, and its reconstruction."""
    assert 0.005 < float((z > 0).float().mean()) < 0.9
    dictionary = load_dictionary(source)
    found, expected = dictionary.encode(x), z * rows.norm(dim=1) / read_published(source).input_scale
    assert float(((found > 0) != (expected > 0)).float().mean()) < 1e-4
    for one, other in ((found, expected), (dictionary(x), x_hat)):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


def filled(module: torch.nn.Module, names: dict[str, str], seed: int) -> None:
    """Give a module of a package random weights; names of linear layers' matrices end with `.weight`."""
    weights = random_weights(seed)
    state = module.state_dict()
    for name, told in names.items():
        value = weights[name].T if told.endswith(".weight") else weights[name]
        state[told] = value.to(state[told].dtype)
    module.load_state_dict(state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"normalize_decoder": False, "num_latents": D_SAE}])
def test_sparsify(tmp_path, monkeypatch, options, dtype):
    monkeypatch.setenv("SPARSIFY_DISABLE_TRITON", "1")  # its kernels are for GPUs
    sparsify = pytest.importorskip("sparsify", reason="pip install eai-sparsify")
    options = {"expansion_factor": D_SAE // D_MODEL, "k": K, **options}
    sae = sparsify.SparseCoder(D_MODEL, sparsify.SparseCoderConfig(**options), dtype=dtype)
    names = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}
    filled(sae, names, 21)
    if sae.cfg.normalize_decoder:
        sae.set_decoder_norm_to_unit_norm()
    sae.save_to_disk(tmp_path / "layers.3")
    theirs, x = sparsify.SparseCoder.load_from_disk(tmp_path / "layers.3").float(), tokens()
    with torch.no_grad():
        values, indices, _ = theirs.encode(x)
        z = torch.zeros(len(x), D_SAE).scatter(1, indices, values)
        x_hat = theirs(x).sae_out
    alike(PublishedSource("sparsify", tmp_path / "layers.3"), z, theirs.W_dec.detach(), x_hat, x)


CLASSES = {
    "standard": ("StandardTrainer", {"l1_penalty": 0.01, "resample_steps": None}),
    "april": ("StandardTrainerAprilUpdate", {"l1_penalty": 0.01}),
    "top_k": ("TopKTrainer", {"k": K}),
    "batch_top_k": ("BatchTopKTrainer", {"k": K, "threshold_start_step": 5, "threshold_beta": 0.5}),
    "matryoshka_batch_top_k": (
        "MatryoshkaBatchTopKTrainer",
        {"k": K, "threshold_start_step": 5, "threshold_beta": 0.5, "group_fractions": [0.25, 0.75]},
    ),
    "jumprelu": ("JumpReluTrainer", {"target_l0": float(K)}),
}


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("module", CLASSES)
def test_dictionary_learning_after_a_training(tmp_path, module, normalised):
    """A short training writes the folder, with the library's own configuration."""
    package = pytest.importorskip("dictionary_learning", reason="pip install dictionary-learning")
    training = pytest.importorskip("dictionary_learning.training")
    if not hasattr(training, "get_norm_factor"):
        pytest.skip(f"{package.__name__} is the fork of arXiv 2504.02922")
    name, options = CLASSES[module]
    file = "standard" if module == "april" else module
    trainer = getattr(pytest.importorskip(f"dictionary_learning.trainers.{file}"), name)
    steps = 30
    config = {
        "trainer": trainer, "steps": steps, "activation_dim": D_MODEL, "dict_size": D_SAE, "layer": 3,
        "lm_name": "gpt2", "device": "cpu", "submodule_name": "resid_post_layer_3", "warmup_steps": 2,
        "lr": 0.01, **options,
    }  # fmt: skip
    config |= {} if "topk" in name.lower() else {"sparsity_warmup_steps": 4}
    batches = [tokens(64, 3.0, seed) for seed in range(100 + steps)]
    training.trainSAE(
        batches, [config], steps, save_dir=str(tmp_path), device="cpu", normalize_activations=normalised
    )
    folder = tmp_path / "trainer_0"
    theirs, _ = pytest.importorskip("dictionary_learning.utils").load_dictionary(str(folder), "cpu")
    x = tokens(scale=3.0)
    with torch.no_grad():
        x_hat, z = theirs(x), theirs.encode(x)
    rows = theirs.W_dec if hasattr(theirs, "W_dec") else theirs.decoder.weight.T
    source = PublishedSource("dictionary_learning", folder)
    alike(source, z, rows.detach(), x_hat, x)
    check_place(read_published(source).place, folder, 3)


def fork():
    """Return the module of dictionaries of the fork, or leave the test out."""
    module = pytest.importorskip(
        "dictionary_learning.dictionary", reason="needs the fork of arXiv 2504.02922"
    )
    if not hasattr(module, "NormalizableMixin"):
        pytest.skip("dictionary_learning is not the fork of arXiv 2504.02922")
    return module


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("norm", ["CROSSCODER", "SAE", "NONE"])
def test_crosscoder_of_the_fork(tmp_path, norm, scaled):
    module = fork()
    generator = torch.Generator().manual_seed(4)
    mean, spread = (torch.randn(2, D_MODEL, generator=generator) for _ in range(2))
    spread = (spread.abs() + 0.3) * torch.tensor([[1.0], [7.0]])
    scales = {"activation_mean": mean, "activation_std": spread, "target_rms": 3.0} if scaled else {}
    one = module.BatchTopKCrossCoder(D_MODEL, D_SAE, 2, k=K, code_normalization=norm, **scales)
    with torch.no_grad():
        one.encoder.bias.copy_(0.2 * torch.randn(D_SAE, generator=generator))
        one.decoder.bias.copy_(0.3 * torch.randn(2, D_MODEL, generator=generator))
        one.decoder.weight.mul_(torch.rand(2, D_SAE, 1, generator=generator) + 0.2)
        one.threshold.fill_(0.4)
    torch.save(one.state_dict(), tmp_path / "ae.pt")
    theirs = module.BatchTopKCrossCoder.from_pretrained(str(tmp_path / "ae.pt"))
    x = 4 * torch.randn(300, 2, D_MODEL, generator=generator) + 0.7
    x = x * torch.tensor([[[1.0], [6.0]]])
    with torch.no_grad():
        z, x_hat = theirs.encode(x), theirs(x).flatten(1)
    # The norm of rows that stand side by side, in the units of both models.
    back = torch.ones(2) if not scaled else 1 / theirs.activation_global_scale
    rows = (theirs.decoder.weight * back[:, None, None]).transpose(0, 1).flatten(1).detach()
    alike(PublishedSource("crosscoder", tmp_path / "ae.pt"), z, rows, x_hat, x.flatten(1))


@pytest.mark.parametrize("scaled", [True, False])
def test_batch_topk_of_the_fork(tmp_path, scaled):
    module = fork()
    generator = torch.Generator().manual_seed(5)
    mean, spread = torch.randn(D_MODEL, generator=generator), torch.rand(D_MODEL, generator=generator) + 0.3
    scales = {"activation_mean": mean, "activation_std": spread, "target_rms": 3.0} if scaled else {}
    one = module.BatchTopKSAE(D_MODEL, D_SAE, K, **scales)
    weights = {**learnt_state(random_weights(22), "BatchTopKSAE"), "threshold": torch.tensor(0.9)}
    one.load_state_dict({**one.state_dict(), **weights})
    torch.save(one.state_dict(), tmp_path / "ae.pt")
    told = {"dict_class": "BatchTopKSAE", "activation_dim": D_MODEL, "dict_size": D_SAE, "k": K}
    (tmp_path / "config.json").write_text(json.dumps({"trainer": told}))
    theirs, x = module.BatchTopKSAE.from_pretrained(str(tmp_path / "ae.pt")), tokens(scale=2.0)
    with torch.no_grad():
        z, x_hat = theirs.encode(x), theirs(x)
    back = 1 / theirs.activation_global_scale if scaled else 1.0
    rows = theirs.decoder.weight.T.detach() * back
    alike(PublishedSource("dictionary_learning", tmp_path), z, rows, x_hat, x)


@pytest.mark.parametrize("by_norm", [True, False])
@pytest.mark.parametrize("act_fn", ["jumprelu", "topk", "relu"])
@pytest.mark.parametrize("mode", ["dataset-wise", "inference"])
def test_openmoss(tmp_path, act_fn, by_norm, mode):
    sae = pytest.importorskip("llamascopium.models.sae", reason="pip install llamascopium")
    hook = "blocks.3.hook_resid_post"
    config = sae.SAEConfig(
        hook_point_in=hook, hook_point_out=hook, d_model=D_MODEL, expansion_factor=D_SAE / D_MODEL, top_k=K,
        act_fn=act_fn, sparsity_include_decoder_norm=by_norm, norm_activation=mode, dtype=torch.float32,
        device="cpu",
    )  # fmt: skip
    one = sae.SparseAutoEncoder(config)
    names = {"W_enc": "W_E", "b_enc": "b_E", "W_dec": "W_D", "b_dec": "b_D"}
    filled(one, names, 23)
    if act_fn == "jumprelu":
        one.activation_function.log_jumprelu_threshold.data.copy_(random_weights(23)["threshold"].log())
    one.set_dataset_average_activation_norm({hook: 10.8125})
    one.save_pretrained(tmp_path / "L3R")
    config.save_hyperparameters(tmp_path / "L3R")
    theirs, x = sae.SparseAutoEncoder.from_pretrained(str(tmp_path / "L3R")), tokens(scale=3.0)
    with torch.no_grad():
        scaled, factors = theirs.normalize_activations({hook: x}, return_scale_factor=True)
        z = theirs.encode(scaled[hook])
        x_hat = theirs.denormalize_activations({hook: theirs.decode(z)}, factors)[hook]
    alike(PublishedSource("openmoss", tmp_path / "L3R"), z, theirs.W_D.detach(), x_hat, x)
    written = write_openmoss(tmp_path / "ours", random_weights(23), act_fn=act_fn)
    shapes = [
        {name: tensor.shape for name, tensor in load_file(folder / "sae_weights.safetensors").items()}
        for folder in (tmp_path / "L3R", written)
    ]
    assert shapes[0] == shapes[1]
    assert set(json.loads(Path(written, "config.json").read_text())) <= set(
        json.loads((tmp_path / "L3R" / "config.json").read_text())
    )
