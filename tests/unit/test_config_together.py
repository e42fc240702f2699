"""Which layers one job takes, and what the plan says of them."""

from pathlib import Path

import pytest
import yaml

from vlmdiff.config.load import load_config
from vlmdiff.config.memory import SHARE, at_once, cut, training_bytes
from vlmdiff.config.plan import plan
from vlmdiff.config.together import ANY, counted_together, jobs_by_layers, trained_together

CONFIG = Path(__file__).parents[2] / "config"


def read(name="config", **sections):
    """Return a shipped configuration with some sections updated."""
    values = yaml.safe_load((CONFIG / f"{name}.yaml").read_text())
    for section, change in sections.items():
        values[section] = {**values.get(section, {}), **change}
    return load_config(values)


@pytest.mark.parametrize(
    ("layers", "most", "expected"),
    [
        (range(5), 5, [(0, 1, 2, 3, 4)]),
        (range(5), 9, [(0, 1, 2, 3, 4)]),
        (range(5), 4, [(0, 1, 2), (3, 4)]),
        (range(6), 4, [(0, 1, 2), (3, 4, 5)]),
        ((3, 8, 9), 1, [(3,), (8,), (9,)]),
    ],
)
def test_layers_are_cut_into_as_few_equal_runs_as_it_takes(layers, most, expected):
    assert cut(layers, most) == expected


def test_a_small_world_is_one_job_a_dictionary():
    config = read()
    assert trained_together(config, "base") == counted_together(config, "base") == [(0, 1, 2, 3)]


def test_layers_of_a_job_lie_in_the_same_shards():
    config = read(extraction={"layers_at_once": 3})
    assert trained_together(config, "base") == counted_together(config, "base") == [(0, 1, 2), (3,)]


def test_a_stream_serves_all_layers_of_a_pass_at_once():
    config = read("llava_more")
    assert trained_together(config, "adapted") == [tuple(range(32))]
    config = read("llava_more", extraction={"layers_at_once": 10})
    assert [len(layers) for layers in trained_together(config, "adapted")] == [10, 10, 10, 2]


def test_a_layer_that_is_hours_of_work_is_a_job_of_its_own():
    """4.1 million tokens, 4,096 x 32,768 weights: 5.6e14 multiplications, some minutes of a card."""
    stored = read("llava_more", extraction={"store": "temporary"})
    assert list(map(len, trained_together(stored, "adapted"))) == [16, 16]
    processor = read(
        "llava_more", extraction={"store": "temporary"}, resources={"train_dictionary": {"mem_mb": 8000}}
    )
    assert trained_together(processor, "adapted") == [(layer,) for layer in range(32)]


def test_a_card_counts_all_layers_where_a_processor_counts_one():
    assert counted_together(read("llava_more"), "adapted") == [tuple(range(32))]
    processor = read("llava_more", resources={"feature_statistics": {"mem_mb": 12000}})
    assert counted_together(processor, "adapted") == [(layer,) for layer in range(32)]


def test_a_model_that_nobody_knows_yet_is_taken_for_a_large_one():
    config = read("llava_more", extraction={"store": "keep"})
    unknown = {name: one.model_copy(update={"planned": None}) for name, one in config.models.items()}
    config = config.model_copy(update={"models": unknown})
    assert set(map(len, trained_together(config, "adapted"))) == {1}
    assert set(map(len, counted_together(config, "base"))) == {1}


def test_each_group_of_layers_has_a_rule_and_single_layers_share_one():
    groups = {
        "a": [(0, 1), (2, 3)],
        "b": [(0,), (1,), (2,), (3,)],
        "c": [(0, 1), (2, 3)],
        "d": [(0, 1, 2, 3)],
    }
    found = jobs_by_layers(read(), groups, lambda config, name: groups[name])
    assert found == [
        ("", (0, 1), ["a", "c"]),
        ("_2_3", (2, 3), ["a", "c"]),
        ("_alone", ANY, ["b"]),
        ("_0_3", (0, 1, 2, 3), ["d"]),
    ]
    assert jobs_by_layers(read(), [], trained_together) == [("", ANY, [])]


def test_what_fits_is_weights_and_moments_of_each_and_gradients_of_one():
    one = training_bytes(4096, 32768)
    assert one == 3 * 2 * 4096 * 32768 * 4
    needed = (16 * one + one / 3) / SHARE
    assert at_once(needed + 1, 4096, 32768) == 16
    assert at_once(needed - 1e3, 4096, 32768) == 15
    assert at_once(0.0, 4096, 32768) == 1


def test_the_plan_tells_how_often_the_model_reads_its_data():
    told = plan(read("llava_more"))
    assert "adapted, null_text: 32 layers a job, 3.2 GB each; " in told
    assert "passes of the model by the memory that is free: 2 where 62.0 GB are, 11 where 15.0 GB are" in told
    assert "free: 1 where 62.0 GB are" in plan(read("llava_more", extraction={"layers_at_once": 16}))
    assert "of the model" not in plan(read())
