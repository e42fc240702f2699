"""Every figure is drawn from strong, from null and from empty tables, and its file is reproducible."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import synthetic_confidence
import synthetic_tables as tables

from vlmdiff.figures import (
    adapted,
    concepts,
    confidence,
    dictionaries,
    effects,
    gallery,
    ground_truth,
    heads,
    models,
    stages,
    steering,
    thresholds,
)
from vlmdiff.figures.save import save_figure
from vlmdiff.figures.style import CYCLE, DOUBLE_MM, SINGLE_MM, series

DATA = (tables.TARGET, tables.CONTROL)
STORIES = {"strong": tables.STRONG, "none": tables.NONE, "empty": tables.EMPTY}
Story = tables.Story

Frames = Callable[[Story, list[str]], list[pd.DataFrame]]
FIGURES: dict[str, tuple[Callable[..., Figure], Frames, tuple]] = {
    "fvu_by_layer": (dictionaries.fvu_by_layer, lambda s, _: [tables.dictionary_metrics(s)], ()),
    "training_dynamics": (
        dictionaries.training_dynamics,
        lambda s, _: [tables.dictionary_metrics(s), tables.accuracy(s)],
        ({"vlm_25": 25, "vlm_50": 50, "vlm_75": 75, "vlm": 100},),
    ),
    "model_accuracy": (models.model_accuracy, lambda s, _: [tables.accuracy(s)], ("vlm",)),
    "energy_vs_cosine": (
        adapted.energy_vs_cosine,
        lambda s, _: [tables.adapted(s), tables.thresholds(s), tables.final_features(s)],
        (),
    ),
    "cosine_distributions": (
        adapted.cosine_distributions,
        lambda s, _: [tables.adapted(s), tables.thresholds(s)],
        (),
    ),
    "adapted_by_layer": (
        adapted.adapted_by_layer,
        lambda s, _: [tables.thresholds(s)],
        (),
    ),
    "threshold_robustness": (
        thresholds.threshold_robustness,
        lambda s, _: [tables.threshold_sweep(s)],
        (0.01, 25),
    ),
    "contrast_volcano": (
        concepts.contrast_volcano,
        lambda s, _: [tables.contrast(s), tables.adapted(s), tables.final_features(s)],
        ("counts", 3.0),
    ),
    "contrast_volcano_matched": (
        concepts.contrast_volcano,
        lambda s, _: [
            tables.contrast(s).query("unit == 'sample'"),
            tables.adapted(s),
            tables.final_features(s),
        ],
        ("text_matched", 0.8),
    ),
    "funnel": (concepts.funnel, lambda s, _: [tables.funnel(s)], ()),
    "ablation_effects": (effects.ablation_effects, lambda s, _: [tables.ablation(s)], DATA),
    "ablation_by_group": (effects.ablation_by_group, lambda s, _: [tables.ablation(s)], DATA),
    "head_ablation": (effects.head_ablation, lambda s, _: [tables.head_ablation(s)], DATA),
    "head_attribution": (
        heads.head_attribution,
        lambda s, _: [tables.head_attribution(s), tables.head_scores(s)],
        (),
    ),
    "attribution_vs_exact": (
        heads.attribution_vs_exact,
        lambda s, _: [tables.head_attribution(s), tables.head_patching(s), tables.head_agreement(s)],
        (),
    ),
    "top_samples": (gallery.top_samples, lambda s, images: tables.gallery_of(s, images), ()),
    "attention_map": (
        gallery.attention_map,
        lambda s, images: [tables.head_attention(s), tables.samples(images)],
        (),
    ),
    "comparisons": (confidence.comparisons, lambda s, _: [synthetic_confidence.comparisons(s)], ()),
    "selection_rules": (
        confidence.selection_rules,
        lambda s, _: [synthetic_confidence.selection(s)],
        (DATA, synthetic_confidence.SIZES, synthetic_confidence.RULES_BY_COMPARISON),
    ),
    "recurrence": (confidence.recurrence, lambda s, _: [synthetic_confidence.recurrence(s)], ()),
    "stage_grid": (stages.stage_grid, lambda s, _: [synthetic_confidence.stage_grid(s)], ()),
    "transfer": (stages.transfer, lambda s, _: [synthetic_confidence.transfer(s)], DATA),
    "steering": (steering.steering, lambda s, _: [synthetic_confidence.steering(s)], DATA),
    "ground_truth": (
        ground_truth.ground_truth,
        lambda s, _: [
            synthetic_confidence.truth(s),
            tables.final_features(s),
            synthetic_confidence.quality(s),
        ],
        (),
    ),
}
NEEDS_FINAL = {
    "ablation_effects", "ablation_by_group", "head_ablation", "head_attribution", "attribution_vs_exact",
    "top_samples", "attention_map", "ground_truth",
}  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths):
        Image.new("RGB", (36, 36), (50 * i, 20, 200)).save(path)
    return [str(path) for path in paths]


def texts(figure: Figure) -> str:
    found = [text.get_text() for text in figure.findobj(lambda item: hasattr(item, "get_text"))]
    return "\n".join(found)


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_at_a_print_size(name: str, story: str, images: list[str]):
    draw, frames, extras = FIGURES[name]
    figure = draw(*frames(STORIES[story], images), *extras)
    width = figure.get_size_inches()[0] * 25.4
    assert min(abs(width - SINGLE_MM), abs(width - DOUBLE_MM)) < 0.01
    assert figure.get_size_inches()[1] * 25.4 < 240, "must fit on a page"
    if story == "empty" and name in NEEDS_FINAL:
        assert "No feature" in texts(figure) and not figure.axes
    else:
        assert figure.axes


@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_tables_without_rows_are_still_files(name: str, images: list[str], tmp_path: Path):
    draw, frames, extras = FIGURES[name]
    figure = draw(*[frame.iloc[:0] for frame in frames(tables.STRONG, images)], *extras)
    assert re.search(r"\b(no|empty|No)\b", texts(figure)), "must say why nothing is drawn"
    save_figure(figure, [tmp_path / "figure.png"])
    assert (tmp_path / "figure.png").stat().st_size > 500


@pytest.mark.parametrize("name", ["contrast_volcano", "head_attribution"])
def test_files_are_identical_on_every_run(name: str, images: list[str], tmp_path: Path):
    written = []
    for run in ("first", "second"):
        paths = [tmp_path / run / f"figure.{suffix}" for suffix in ("pdf", "svg", "png")]
        draw, frames, extras = FIGURES[name]
        save_figure(draw(*frames(tables.STRONG, images), *extras), paths)
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]
    assert b"<dc:date>" not in written[0][1]
    assert written[0][1].count(b"<image") >= 1, "points are rasterised"
    assert max(len(content) for content in written[0]) < 400_000


def test_an_unknown_format_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"'\.bmp'.*use one of"):
        save_figure(Figure(), [tmp_path / "figure.bmp"])


def test_series_are_distinct_beyond_the_palette():
    looks = series(f"name {i}" for i in range(3 * len(CYCLE)))
    assert len(set(looks.values())) == 3 * len(CYCLE)


def test_patches_are_tinted_up_to_the_features_largest_activation(images: list[str]):
    rows, patches = tables.gallery_of(tables.STRONG, images)
    figure = gallery.top_samples(rows, patches)
    tints = [axis.findobj(Rectangle) for axis in figure.axes]
    # The first patch is silent; 4, 8 and 12 of at most 12.3, the activation of the strongest token.
    found = sorted(one.get_alpha() for one in tints[0] if one.get_alpha() not in (None, 1))
    assert found == pytest.approx([gallery.TINT * value / 12.3 for value in (4, 8, 12)])
    boxes = {one.get_bbox().bounds for one in tints[0] if one.get_alpha() not in (None, 1)}
    # Pictures of 36 pixels, whose first one is centred at zero.
    assert boxes == {(17.5, -0.5, 18, 18), (-0.5, 17.5, 18, 18), (17.5, 17.5, 18, 18)}
