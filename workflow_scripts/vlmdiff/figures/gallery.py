"""Images: the strongest samples of features, and attention over an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from vlmdiff.figures.prompts import LINE_EM, MM_PER_POINT, SIZE_PT, write_prompt
from vlmdiff.figures.style import DOUBLE_MM, GREY, VERMILION, message_figure, new_figure, styled

COLUMNS = 5
FEATURES = 4
PROMPT_LINES = 5
MARGIN_MM, GAP_MM, TITLE_MM = 3.0, 3.0, 4.5
CELL_MM = (DOUBLE_MM - 2 * MARGIN_MM - (COLUMNS - 1) * GAP_MM) / COLUMNS
# Five rows of these pictures with their prompts fit on a page.
SAMPLE_MM = 24.0
TEXT_MM = (PROMPT_LINES + 1) * LINE_EM * SIZE_PT * MM_PER_POINT


def picture_axes(figure: Figure, row: int, column: int, side_mm: float) -> Axes:
    """Add square axes of `side_mm` in a grid whose cells leave room for a title and a prompt."""
    width, height = figure.get_size_inches() * 25.4
    left = MARGIN_MM + column * (CELL_MM + GAP_MM)
    top = MARGIN_MM + row * (TITLE_MM + side_mm + TEXT_MM) + TITLE_MM
    axis = figure.add_axes((left / width, 1 - (top + side_mm) / height, side_mm / width, side_mm / height))
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(True)
    axis.spines[:].set_color(GREY)
    return axis


def picture_figure(rows: int, side_mm: float) -> Figure:
    """Return a figure for a grid of pictures with prompts below each row."""
    height = 2 * MARGIN_MM + rows * (TITLE_MM + side_mm + TEXT_MM)
    return new_figure(DOUBLE_MM, height, layout=None)


def read_image(path: str | Path) -> np.ndarray:
    """Read an image as RGB, uint8 (height, width, 3)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def show_image(axis: Axes, path: str, blank: str = "no image") -> None:
    """Draw an image file into the axes, or a remark if the sample has none."""
    if path:
        axis.imshow(read_image(path), interpolation="nearest", aspect="auto")
    else:
        axis.text(0.5, 0.5, blank, transform=axis.transAxes, ha="center", va="center", color=GREY)


@styled
def top_samples(gallery: pd.DataFrame) -> Figure:
    """Draw the strongest samples of each feature; the token that fires is underlined.

    Args:
        gallery: GALLERY: a row of pictures per feature.
    """
    if gallery.empty:
        return message_figure("No feature passed all filters: there are no samples to show.", DOUBLE_MM)
    names = list(dict.fromkeys(gallery["name"]))
    figure = picture_figure(len(names), SAMPLE_MM)
    for row, name in enumerate(names):
        samples = gallery[gallery["name"] == name].sort_values("rank").head(COLUMNS)
        for column, sample in enumerate(samples.itertuples(index=False)):
            axis = picture_axes(figure, row, column, SAMPLE_MM)
            show_image(axis, sample.image)
            axis.set_title(f"z = {sample.activation:.3g}", loc="right", fontsize=7, pad=2)
            inside = sample.token_start >= 0
            prompt = sample.prompt if inside else f"{sample.prompt} [after it: {sample.token}]"
            write_prompt(axis, prompt, (sample.token_start, sample.token_end), CELL_MM, PROMPT_LINES)
            if column == 0:
                axis.set_title(name, loc="left", fontsize=7.5, weight="bold", pad=2)
    return figure


def attention_grid(rows: pd.DataFrame) -> np.ndarray:
    """Return the weights of one sample as (patch rows, patch columns)."""
    grid = np.zeros((int(rows["row"].max()) + 1, int(rows["col"].max()) + 1))
    grid[rows["row"].to_numpy(), rows["col"].to_numpy()] = rows["weight"].to_numpy(float)
    return grid


def draw_attention(axis: Axes, image: np.ndarray, grid: np.ndarray) -> None:
    """Draw an image, darkened where the head does not look, with the strongest patch framed."""
    height, width = image.shape[:2]
    extent = (0, width, height, 0)
    axis.imshow(image, extent=extent, interpolation="nearest", aspect="auto")
    shade = np.zeros((*grid.shape, 4))
    shade[..., 3] = 0.7 * (1 - grid / max(float(grid.max()), 1e-12))
    axis.imshow(shade, extent=extent, interpolation="nearest", aspect="auto")
    row, column = np.unravel_index(grid.argmax(), grid.shape)
    cell = (width / grid.shape[1], height / grid.shape[0])
    x, y = column * cell[0], row * cell[1]
    axis.plot(
        [x, x + cell[0], x + cell[0], x, x], [y, y, y + cell[1], y + cell[1], y], color=VERMILION, lw=1.4,
        clip_on=False,
    )  # fmt: skip
    axis.set(xlim=(0, width), ylim=(height, 0))


@styled
def attention_map(attention: pd.DataFrame, samples: pd.DataFrame) -> Figure:
    """Draw where a feature's top head looks, from the token on which the feature fires most.

    Args:
        attention: HEAD_ATTENTION of one concept and seed: a row of pictures per feature.
        samples: columns sample_id, image (path) and prompt.
    """
    if attention.empty:
        return message_figure("No feature was traced: there is no attention to show.", DOUBLE_MM)
    known = samples.set_index("sample_id")
    names = list(dict.fromkeys(attention["name"]))[:FEATURES]
    figure = picture_figure(len(names), SAMPLE_MM)
    for row, name in enumerate(names):
        shown = attention[(attention["name"] == name) & (attention["sample_rank"] < COLUMNS)]
        for column, (_, patches) in enumerate(shown.groupby("sample_rank")):
            first, sample = patches.iloc[0], known.loc[patches["sample_id"].iloc[0]]
            axis = picture_axes(figure, row, column, SAMPLE_MM)
            grid = attention_grid(patches)
            draw_attention(axis, read_image(sample["image"]), grid)
            prompt = f"{sample['prompt']} [from '{first['token']}', largest {grid.max():.2f}]"
            write_prompt(axis, prompt, (-1, -1), CELL_MM, PROMPT_LINES)
            if column == 0:
                title = f"{name} by {first['head_name']}"
                axis.set_title(title, loc="left", fontsize=7.5, weight="bold", pad=2)
    return figure
