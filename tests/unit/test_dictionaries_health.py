"""A training that has diverged fails, says where and why, and leaves the last good checkpoint."""

import math
import statistics
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from small_trainings import JUMPRELU, STAGE, TOPK, train
from sparse_activations import write_sparse_shards

from vlmdiff.activations.store import ActivationStore
from vlmdiff.dictionaries.callbacks import ResumePoint
from vlmdiff.dictionaries.collectives import fraction_of_all, noise_of_fraction
from vlmdiff.dictionaries.evaluation import score_dictionaries
from vlmdiff.dictionaries.health import PATIENCE_STEPS, Health, TrainingDivergedError, why_not_finite
from vlmdiff.dictionaries.initial import start
from vlmdiff.dictionaries.loss import fraction_unexplained
from vlmdiff.dictionaries.modules import JumpReLUDictionary, TopKDictionary
from vlmdiff.dictionaries.optimiser import DictionaryAdam
from vlmdiff.dictionaries.recipe import Recipe
from vlmdiff.dictionaries.task import DictionaryTask, ShuffledBatches
from vlmdiff.dictionaries.weights import DictionaryError
from vlmdiff.features.firings import encode_chunk


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_sparse_shards(tmp_path_factory.mktemp("shards"), scale=30.0)


@pytest.mark.parametrize("rate, steps", [(10.0, 60), (1e6, 1), (1e6, 250), (1e30, 60)])
@pytest.mark.parametrize("architecture", [TOPK, JUMPRELU], ids=["topk", "jumprelu"])
def test_a_rate_that_is_far_too_high_is_a_failure(shards, tmp_path, architecture, rate, steps):
    stage = {**STAGE, "learning_rate": rate, "steps": steps, "warmup": 0.0, "snapshots": [100]}
    with pytest.raises(TrainingDivergedError, match=rf"layer 0, step \d+ of {steps}: .*lower learning_rate"):
        train(shards, tmp_path / "out", tmp_path / "work", architecture=architecture, stage=stage)
    assert not (tmp_path / "out").exists()


def spoiled(monkeypatch, change):
    """Let the batches of trainings be changed: `change(number, batch)`, numbers from 1."""
    original = ShuffledBatches.__iter__

    def batches(self):
        for number, batch in enumerate(original(self), self.start_step + 1):
            yield change(number, batch.clone())

    monkeypatch.setattr(ShuffledBatches, "__iter__", batches)


@pytest.mark.parametrize(
    "architecture, value",
    [(TOPK, math.nan), (TOPK, math.inf), (JUMPRELU, math.nan), (JUMPRELU, -math.inf)],
    ids=["topk-nan", "topk-inf", "jumprelu-nan", "jumprelu-minus-inf"],
)
def test_an_input_that_is_no_number_is_named(shards, tmp_path, monkeypatch, architecture, value):
    def change(number, batch):
        batch[5, 3] = value if number == 17 else batch[5, 3]
        return batch

    spoiled(monkeypatch, change)
    with pytest.raises(TrainingDivergedError, match=r"step 17 of 60: .*activations of this step hold"):
        train(shards, tmp_path / "out", tmp_path / "work", architecture=architecture, checkpoint_every_s=0.0)
    assert torch.load(tmp_path / "work/last.ckpt", weights_only=True)["global_step"] == 16
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    resumed = train(shards, tmp_path / "out", tmp_path / "work", architecture=architecture)
    whole = train(shards, tmp_path / "whole", tmp_path / "other", architecture=architecture)
    assert all(file.read_bytes() == (whole / file.name).read_bytes() for file in resumed.glob("*.*"))


def test_equal_tokens_are_named(shards, tmp_path, monkeypatch):
    spoiled(monkeypatch, lambda number, batch: batch if number < 9 else batch[:1].expand(128, -1))
    with pytest.raises(TrainingDivergedError, match="step 9 of 60: .*128 tokens of this step are all equal"):
        train(shards, tmp_path / "out", tmp_path / "work")


def test_a_bad_spell_is_forgiven_but_not_kept(shards, tmp_path, monkeypatch):
    """Tokens of 40 times the size for ten steps: a high FVU, no checkpoint, and a training that goes on."""
    kept = []
    monkeypatch.setattr(ResumePoint, "save", lambda self, trainer: kept.append(trainer.global_step))
    bad = set(range(30, 40))
    mean = torch.cat([chunk.values for chunk in ActivationStore(shards, 0).chunks(("text",))]).mean(dim=0)
    # Almost at one point, and far from it a reconstruction: the variance is small, the error is not.
    spoiled(monkeypatch, lambda n, batch: batch * 1e-3 + 200 + mean if n in bad else batch)
    folder = train(shards, tmp_path / "out", tmp_path / "work", checkpoint_every_s=0.0)
    assert set(kept) == set(range(1, 61)) - bad and (folder / "cfg.json").is_file()


def task_of(steps: int) -> DictionaryTask:
    recipe = Recipe.from_params(TOPK, {**STAGE, "steps": steps})
    return DictionaryTask(recipe.build(16), recipe, 1.0)


def judged(task: DictionaryTask, values: list[float]) -> Health:
    health = Health(3)
    for step, fvu in enumerate(values, 1):
        health.judge(task, step, fvu, fvu, True, torch.zeros(2, 16))
    return health


def test_the_limit_is_a_random_token_or_the_start():
    """E ||x - x'||^2 over pairs of tokens is twice the variance."""
    x = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    pairs = torch.cdist(x, x).square().mean() / (x - x.mean(dim=0)).square().sum(dim=1).mean()
    assert judged(task_of(1000), [0.8]).limit == pytest.approx(float(pairs), rel=1e-4)
    assert judged(task_of(1000), [50.0, 0.3]).limit == 50


@pytest.mark.parametrize("steps, patience", [(500, PATIENCE_STEPS), (5000, 500)])
def test_a_tenth_of_the_training_beyond_the_limit_is_the_end(steps, patience):
    task = task_of(steps)
    start = [1.2, *[3.0] * (patience - 1)]
    assert judged(task, start).streak == patience - 1 and not task.worth_keeping
    assert judged(task, [*start, 1.9, *[3.0] * (patience - 1)]).streak == patience - 1
    with pytest.raises(TrainingDivergedError, match=rf"layer 3, step {patience + 1} of .* for {patience}"):
        judged(task, [*start, 3.0])
    # A warm start that begins far off may take its time.
    judged(task, [9.0, *[8.0] * steps])


@pytest.mark.parametrize(
    ("first", "fault", "words"),
    [
        (2e4, 100.0, "does not fit the data. Check that `initial` .* and its `input_scale` .trained at 1.;"),
        (3.0, 2.0, "the first step had 3: what it starts from does not fit"),
        (2.0, 2.0, "the first step had 2: the training diverges; lower learning_rate"),
    ],
)
def test_a_bad_start_excuses_no_bad_end(first, fault, words):
    """A warm start from a base of another model that only got better than its start is a failure."""
    task, x = task_of(10), torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    health = judged(task, [first, *[first * 0.9] * 9])
    with torch.no_grad():
        for weight in task.dictionary.parameters():
            weight.zero_()
        # A constant at a distance from the mean: an FVU of 1 and its square by the variance.
        task.dictionary.b_dec.copy_(x.mean(dim=0))
        spread = (x - x.mean(dim=0)).square().sum(dim=1).mean().sqrt()
        task.dictionary.b_dec[3] += spread * 0.9
        health.judge_result(task, x)
        task.dictionary.b_dec[3] += spread * fault
    with pytest.raises(TrainingDivergedError, match=rf"step 10 of 10: .*expected at most 2; .*{words}"):
        health.judge_result(task, x)


@pytest.mark.parametrize(
    ("first", "end", "fails"),
    [(0.467, 1.241, True), (1.0, 1.241, True), (1.05, 1.241, False), (0.467, 0.9, False)],
)
def test_a_training_may_not_become_worse_than_the_mean(caplog, first, end, fails):
    task, x = task_of(10), torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    health = judged(task, [first] * 10)
    centred = x - x.mean(dim=0)
    x_hat = x + (end * centred.square().sum() / x.numel()).sqrt()
    task.dictionary.reconstruct = lambda _: SimpleNamespace(x_hat=x_hat)
    if fails:
        words = rf"step 10 of 10: the FVU is 1.241 .*at most 1.0[0-9]*; .*the first step had {first:g}: "
        with pytest.raises(TrainingDivergedError, match=f"{words}.*diverges; lower learning_rate"):
            health.judge_result(task, x)
    else:
        health.judge_result(task, x)
        assert ("1.241 after the last step (1.05 at the first)" in caplog.text) == (end > 1)


def test_the_noise_of_a_step_is_that_of_other_tokens():
    """Against the spread of the FVU of ten thousand other draws of the same kind, for an FVU of 1."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(10_000, 50, 16, generator=draw) * torch.tensor([5.0, *[1.0] * 15])
    # Half of what differs, and three quarters of the variance of 40 as noise: 1 / 4 + 3 / 4.
    x_hat = (x + x.mean(dim=1, keepdim=True)) / 2 + (30 / 16) ** 0.5 * torch.randn(x.shape, generator=draw)
    fvus = (x - x_hat).square().sum(dim=(1, 2)) / (x - x.mean(dim=1, keepdim=True)).square().sum(dim=(1, 2))
    assert float(fvus.mean()) == pytest.approx(1, abs=0.03)
    told = statistics.median(noise_of_fraction(x[row], x_hat[row]) for row in range(200))
    assert told == pytest.approx(float(fvus.std()), rel=0.1)


def test_a_step_just_above_the_mean_is_noise():
    """From the mean of the tokens to a level of 1 with the chance of one batch: no failure, but a warning."""
    task, x = task_of(10), torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    health = judged(task, [0.9999] * 10)
    noise = noise_of_fraction(x, x.mean(dim=0) + torch.randn_like(x) * 0.1)
    for end, fails in ((1 + 2 * noise, False), (1 + 20 * noise, True)):
        x_hat = x.mean(dim=0) + torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) * 0.1
        x_hat = x + (x_hat - x) * (end / float(fraction_of_all(x, x_hat))) ** 0.5
        task.dictionary.reconstruct = lambda _, x_hat=x_hat: SimpleNamespace(x_hat=x_hat)
        with pytest.raises(TrainingDivergedError) if fails else nullcontext():
            health.judge_result(task, x)


BROKEN = [(name, value) for name in ("W_enc", "b_enc", "W_dec", "b_dec") for value in (math.nan, -math.inf)]
BROKEN += [("exp_avg_sq", math.inf), ("log_threshold", 100.0)]


@pytest.mark.parametrize("alone", [True, False], ids=["compiled", "torch"])
@pytest.mark.parametrize("name, value", BROKEN)
def test_weights_and_moments_are_looked_at_after_each_step(name, value, alone):
    """Where no loss tells: a weight of a feature that never fires, a frozen moment, a threshold."""
    torch.manual_seed(0)
    kind = JumpReLUDictionary if name == "log_threshold" else TopKDictionary
    dictionary = TopKDictionary(16, 70, 4) if kind is TopKDictionary else JumpReLUDictionary(16, 70, 0.5)
    for parameter in dictionary.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    dictionary.normalise_decoder()
    adam, x = DictionaryAdam(dictionary, 1e-3, alone=alone), torch.randn(40, 16)
    for number in range(2):
        if number == 1:
            with torch.no_grad():
                state = adam.state[dictionary.W_dec]
                place = state[name] if name in state else getattr(dictionary, name)
                place[(7,) * place.dim()] = value
        adam.zero_grad()
        fraction_unexplained(x, dictionary.reconstruct(x).x_hat).backward()
        adam.step()
        assert bool(adam.is_finite()) == (number == 0)


def test_a_feature_that_is_minus_infinity_does_not_hide(shards, tmp_path, monkeypatch):
    """It never fires, so no loss shows it."""
    step = DictionaryTask.training_step

    def spoil(self, *arguments):
        if self.global_step == 20:
            with torch.no_grad():
                self.dictionary.b_enc[11] = -math.inf
        return step(self, *arguments)

    monkeypatch.setattr(DictionaryTask, "training_step", spoil)
    with pytest.raises(TrainingDivergedError, match="step 21 of 60: the weights are not finite.*b_enc hold"):
        train(shards, tmp_path / "out", tmp_path / "work")


def test_numbers_beyond_float32_are_refused_when_dictionaries_are_read_and_scored(shards):
    dictionary = TopKDictionary(16, 64, 4)
    with torch.no_grad():
        dictionary.W_enc.fill_(3e37)
        dictionary.W_dec.fill_(1)
    store = ActivationStore(shards, 0)
    with pytest.raises(DictionaryError, match="layer 0, dictionary after 25 % .*squared error is (inf|nan)"):
        score_dictionaries(store, {25: dictionary})
    with pytest.raises(DictionaryError, match=r"\d+ activations of features are NaN or infinite"):
        encode_chunk(dictionary, next(store.chunks()))


def test_the_cause_is_what_the_batch_and_the_weights_tell(shards):
    recipe = Recipe.from_params(TOPK, STAGE)
    task = DictionaryTask(start(ActivationStore(shards, 0), recipe, "random", 5)[0], recipe, 1.0)
    batch = torch.ones(6, task.dictionary.d_model)
    assert why_not_finite(task, batch).startswith("the 6 tokens of this step are all equal")
    batch[3, 1] += 1
    assert why_not_finite(task, batch).startswith("the training diverges; ")
    with torch.no_grad():
        task.dictionary.b_enc[2] = math.inf
    assert why_not_finite(task, batch).startswith("b_enc hold NaN or infinity now; the training diverges")
    batch[0, 0] = math.nan
    assert why_not_finite(task, batch).startswith("the activations of this step hold NaN or infinity")
