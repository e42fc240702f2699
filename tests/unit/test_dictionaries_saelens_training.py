"""What is trained here loads in sae-lens; one Matryoshka step has sae-lens' own losses and gradients."""

import json

import pytest
import torch
from published_dictionaries import D_MODEL, D_SAE, K, random_weights, tokens
from saelens_checks import alike, same
from small_trainings import JUMPRELU, STAGE, TOPK, train
from sparse_activations import write_sparse_shards

from vlmdiff.activations.store import ActivationStore
from vlmdiff.dictionaries.export import export_dictionary
from vlmdiff.dictionaries.files import load_dictionary, save_dictionary
from vlmdiff.dictionaries.matryoshka import MatryoshkaDictionary
from vlmdiff.dictionaries.modules import JumpReLUDictionary, TopKDictionary
from vlmdiff.dictionaries.recipe import Recipe
from vlmdiff.dictionaries.source import PublishedSource
from vlmdiff.dictionaries.task import DictionaryTask
from vlmdiff.dictionaries.weights import DictionaryError

sae_lens = pytest.importorskip("sae_lens", reason="compares with sae-lens: pip install -r envs/peers.txt")
from sae_lens.saes.matryoshka_batchtopk_sae import (  # noqa: E402
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens.saes.sae import TrainStepInput  # noqa: E402

PREFIXES = (5, 32, D_SAE)
SHAPES = {
    "topk": TOPK,
    "topk without b_dec": {**TOPK, "subtract_decoder_bias": False},
    "batch_topk": {**TOPK, "kind": "batch_topk"},
    "matryoshka": {**TOPK, "kind": "matryoshka", "prefixes": [0.25, 0.5]},
    "jumprelu": JUMPRELU,
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_sparse_shards(tmp_path_factory.mktemp("shards"), scale=30.0)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_what_is_trained_here_saelens_loads(shards, tmp_path, shape):
    """Training sees scaled residuals; what is saved acts on raw ones, whose mean is in `b_dec`."""
    folder = train(shards, tmp_path / "trained", tmp_path / "work", architecture=shape)
    x = next(iter(ActivationStore(shards, 0).chunks(("text",)))).values[:400]
    for place in (folder, folder / "snapshots" / "50"):
        config = json.loads((place / "cfg.json").read_text())
        assert config["metadata"]["input_scale"] not in (None, 1.0)
        sae = sae_lens.SAE.load_from_disk(place)
        assert sae.cfg.architecture() == ("topk" if shape["kind"] == "topk" else "jumprelu")
        assert sae.cfg.apply_b_dec_to_input == shape["subtract_decoder_bias"]
        assert sae.cfg.metadata.hook_name == "blocks.0.hook_resid_post" and sae.b_dec.abs().max() > 1
        same(load_dictionary(place), sae, x)
    fvu = (sae(x).detach() - x).square().sum() / (x - x.mean(0)).square().sum()
    assert float(fvu) < 0.9


def test_matryoshka_losses_and_gradients_are_theirs():
    """Their loss is the sum over prefixes of the squared error, and adds auxiliary errors without a unit.

    Ours is the mean, and the auxiliary error is a fraction of the error's variance. Their auxiliary
    activations may be negative, so that dead features are chosen here that are positive everywhere.
    """
    weights, x = random_weights(11, unit_rows=True), tokens()
    del weights["threshold"]
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    dead[:: D_SAE // (D_MODEL // 2)] = True
    weights["b_enc"][dead] += 9
    coefficient = 1 / 32
    theirs = MatryoshkaBatchTopKTrainingSAE(
        MatryoshkaBatchTopKTrainingSAEConfig(
            d_in=D_MODEL, d_sae=D_SAE, k=K, matryoshka_widths=list(PREFIXES), apply_b_dec_to_input=True,
            rescale_acts_by_decoder_norm=False, aux_loss_coefficient=coefficient,
        )
    )  # fmt: skip
    theirs.load_state_dict(weights, strict=False)
    output = theirs.training_forward_pass(TrainStepInput(x, {}, dead, 0, False))
    output.loss.backward()

    ours = MatryoshkaDictionary(D_MODEL, D_SAE, K, PREFIXES)
    ours.load_state_dict(weights, strict=False)
    error = (x - ours(x)).detach()
    unit = float((error - error.mean(dim=0)).square().sum() / len(x))
    shape = {
        **SHAPES["matryoshka"],
        "d_sae": D_SAE,
        "k": K,
        "prefixes": PREFIXES[:-1],
        "reconstruction": "mse",
    }
    stage = {**STAGE, "auxk_coefficient": coefficient * unit / len(PREFIXES), "dead_after_tokens": 1}
    task = DictionaryTask(ours, Recipe.from_params(shape, stage), 1.0)
    task.silent_tokens[dead] = 1
    found = task.training_step(x, 0)
    found["loss"].backward()

    alike(found["loss"] * len(PREFIXES), output.loss)
    alike(found["auxiliary"] * unit * coefficient, output.losses["auxiliary_reconstruction_loss"])
    for size, x_hat in zip(PREFIXES[:-1], ours.reconstruct(x).shorter, strict=True):
        alike((x - x_hat).square().sum(dim=1).mean(), output.losses[f"inner_mse_loss_{size}"])
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        alike(getattr(ours, name).grad * len(PREFIXES), getattr(theirs, name).grad)


def test_matryoshka_in_use_is_theirs(tmp_path):
    """Theirs is saved for inference as JumpReLU with the threshold it reached, and so is ours."""
    weights, x = random_weights(12, unit_rows=True), tokens()
    del weights["threshold"]
    ours = MatryoshkaDictionary(D_MODEL, D_SAE, K, PREFIXES)
    ours.load_state_dict(weights, strict=False)
    ours.reconstruct(x)
    theirs = MatryoshkaBatchTopKTrainingSAE(
        MatryoshkaBatchTopKTrainingSAEConfig(
            d_in=D_MODEL, d_sae=D_SAE, k=K, matryoshka_widths=list(PREFIXES), topk_threshold_lr=1.0,
            rescale_acts_by_decoder_norm=False,
        )
    )  # fmt: skip
    theirs.load_state_dict(weights, strict=False)
    theirs.training_forward_pass(TrainStepInput(x, {}, None, 0, False))
    theirs.save_inference_model(tmp_path / "theirs")
    save_dictionary(ours.as_used(), tmp_path / "ours", {})
    loaded = [sae_lens.SAE.load_from_disk(tmp_path / name) for name in ("theirs", "ours")]
    assert [one.cfg.architecture() for one in loaded] == ["jumprelu", "jumprelu"]
    # The smallest active value of the batch is the threshold: that one pair is not active any more.
    for one in loaded:
        same(ours.as_used(), one, x)


@pytest.mark.parametrize("kind", ["a divisor", "signed thresholds"])
def test_what_saelens_has_no_equal_for_it_refuses(tmp_path, kind):
    """Rather than that it encodes otherwise; see docs/configure/import_dictionary.md#conventions."""
    weights = random_weights(13, unit_rows=True)
    threshold = weights.pop("threshold")
    if kind == "a divisor":
        dictionary = TopKDictionary(D_MODEL, D_SAE, K, divisor=threshold + 0.1)
    else:
        dictionary = JumpReLUDictionary(D_MODEL, D_SAE)
        threshold[3] = -0.5
        dictionary.set_threshold(threshold)
    dictionary.load_state_dict(weights, strict=False)
    save_dictionary(dictionary, tmp_path / "ours", {})
    assert torch.equal(load_dictionary(tmp_path / "ours").encode(tokens()), dictionary.encode(tokens()))
    with pytest.raises(RuntimeError, match="(?i)(unexpected|missing) key"):
        sae_lens.SAE.load_from_disk(tmp_path / "ours")


@pytest.mark.parametrize("kind", ["topk", "topk with a divisor", "jumprelu"])
def test_an_export_has_the_same_choice_and_reconstructions(tmp_path, kind):
    weights = random_weights(14, unit_rows=True)
    threshold, x = weights.pop("threshold"), tokens()
    if kind == "jumprelu":
        dictionary = JumpReLUDictionary(D_MODEL, D_SAE, subtract_decoder_bias=False)
        dictionary.set_threshold(threshold)
    else:
        dictionary = TopKDictionary(D_MODEL, D_SAE, K, divisor=threshold + 0.1 if "with" in kind else None)
    dictionary.load_state_dict(weights, strict=False)
    save_dictionary(dictionary, tmp_path / "ours", {"layer": 3})
    export_dictionary(tmp_path / "ours", tmp_path / "exported")
    sae = sae_lens.SAE.load_from_disk(tmp_path / "exported")
    assert sae.cfg.metadata.layer == 3
    same(dictionary, sae, x)
    back = load_dictionary(tmp_path / "exported")
    alike(back.encode(x), dictionary.encode(x))


def test_negative_activations_cannot_be_exported(tmp_path):
    dictionary = JumpReLUDictionary(D_MODEL, D_SAE)
    dictionary.set_threshold(torch.full((D_SAE,), -0.5))
    save_dictionary(dictionary, tmp_path / "ours", {})
    with pytest.raises(DictionaryError, match="thresholds below zero let negative activations pass"):
        export_dictionary(tmp_path / "ours", tmp_path / "exported")


@pytest.mark.parametrize("named", ["folder", "file", "link"])
def test_an_export_never_replaces_the_dictionary_that_it_is_made_from(tmp_path, named):
    dictionary = TopKDictionary(D_MODEL, D_SAE, K)
    save_dictionary(dictionary, tmp_path / "ours", {})
    before = {file.name: file.read_bytes() for file in (tmp_path / "ours").iterdir()}
    (tmp_path / "link").symlink_to(tmp_path / "ours")
    names = {"folder": "ours", "file": "ours/sae_weights.safetensors", "link": "link"}
    with pytest.raises(DictionaryError, match="where the dictionary itself lies"):
        export_dictionary(PublishedSource("saelens", tmp_path / names[named]), tmp_path / "ours")
    assert {file.name: file.read_bytes() for file in (tmp_path / "ours").iterdir()} == before
