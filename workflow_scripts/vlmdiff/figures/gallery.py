"""Images: the strongest samples of features, and attention over an image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vlmdiff.data.pictures import load_picture
from vlmdiff.figures.prompts import LINE_EM, MM_PER_POINT, SIZE_PT, characters, wrapped, write_prompt
from vlmdiff.figures.style import DOUBLE_MM, GREY, VERMILION, message_figure, new_figure, significant, styled
from vlmdiff.runtime.reading import DataError

COLUMNS = 5
FEATURES = 4
PROMPT_LINES = 5
MARGIN_MM, GAP_MM, TITLE_MM = 3.0, 3.0, 4.5
# What fits on a page with its caption.
PAGE_MM = 238.0
LARGEST_MM = 36.0
# How much of a picture the fullest tint hides.
TINT = 0.7
LINE_MM = LINE_EM * SIZE_PT * MM_PER_POINT


@dataclass(frozen=True)
class Grid:
    """A page of square pictures, each with a title above and lines of text below; sizes in mm."""

    rows: int
    cell_mm: float
    text_mm: float
    side_mm: float

    @classmethod
    def of(cls, rows: int, columns: int, texts: Iterable[str]) -> Grid:
        """Make the pictures as large as page and columns allow, with no more room for text than needed."""
        cell_mm = (DOUBLE_MM - 2 * MARGIN_MM - (columns - 1) * GAP_MM) / columns
        longest = max(len(wrapped(text, characters(cell_mm))) for text in texts)
        text_mm = (min(longest, PROMPT_LINES) + 1) * LINE_MM
        room_mm = (PAGE_MM - 2 * MARGIN_MM) / rows - TITLE_MM - text_mm
        return cls(rows, cell_mm, text_mm, min(cell_mm, room_mm, LARGEST_MM))

    def figure(self) -> Figure:
        """Return an empty figure that holds the grid."""
        height = 2 * MARGIN_MM + self.rows * (TITLE_MM + self.side_mm + self.text_mm)
        return new_figure(DOUBLE_MM, height, layout=None)

    def axes(self, figure: Figure, row: int, column: int) -> Axes:
        """Add the axes of one picture."""
        width, height = figure.get_size_inches() * 25.4
        side = self.side_mm
        left = MARGIN_MM + column * (self.cell_mm + GAP_MM)
        top = MARGIN_MM + row * (TITLE_MM + side + self.text_mm) + TITLE_MM
        axis = figure.add_axes((left / width, 1 - (top + side) / height, side / width, side / height))
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(True)
        axis.spines[:].set_color(GREY)
        return axis


def read_image(path: str | Path) -> np.ndarray:
    """Read an image as RGB, uint8 (height, width, 3).

    Raises:
        DataError: it is damaged.
    """
    try:
        return np.asarray(load_picture(Path(path)))
    except DataError as error:
        raise DataError(f"{path}: cannot be read ({error}); replace the file") from error


def show_image(axis: Axes, path: str, patches: pd.DataFrame, largest: float) -> None:
    """Draw an image file into the axes, or a remark if the sample has none.

    Args:
        axis: where.
        path: the file; empty if there is none.
        patches: rows of GALLERY_PATCHES of this picture, which are tinted by activation.
        largest: activation of the fullest tint.
    """
    if path:
        image = read_image(path)
        height, width = image.shape[:2]
        axis.imshow(image, interpolation="nearest")
        for patch in patches[patches["activation"] > 0].itertuples():
            corner = (patch.left * width - 0.5, patch.top * height - 0.5)
            sides = ((patch.right - patch.left) * width, (patch.bottom - patch.top) * height)
            tint = TINT * patch.activation / largest
            axis.add_patch(Rectangle(corner, *sides, color=VERMILION, alpha=tint, lw=0.8))
        keep_shape(axis)
    else:
        axis.text(0.5, 0.5, "no image", transform=axis.transAxes, ha="center", va="center", color=GREY)


@styled
def top_samples(gallery: pd.DataFrame, patches: pd.DataFrame) -> Figure:
    """Draw the strongest samples of each feature; the token that fires is underlined.

    Patches are tinted on one scale per feature, up to its largest activation on what is shown.

    Args:
        gallery: GALLERY: a row of pictures per feature.
        patches: GALLERY_PATCHES: activations on these pictures.
    """
    if gallery.empty:
        return message_figure("No feature passed all filters: there are no samples to show.", DOUBLE_MM)
    names = list(dict.fromkeys(gallery["name"]))
    places = zip(gallery["prompt"], gallery["token"], gallery["token_start"])
    texts = [prompt if start >= 0 else f"{prompt} [after it: {token}]" for prompt, token, start in places]
    gallery = gallery.assign(text=texts)
    grid = Grid.of(len(names), COLUMNS, texts)
    figure = grid.figure()
    for row, name in enumerate(names):
        samples = gallery[gallery["name"] == name].sort_values("rank").head(COLUMNS)
        own = patches[(patches["name"] == name) & patches["rank"].isin(samples["rank"])]
        largest = max(samples["activation"].max(), own["activation"].max() if len(own) else 0.0)
        for column, sample in enumerate(samples.itertuples(index=False)):
            axis = grid.axes(figure, row, column)
            show_image(axis, sample.image, own[own["rank"] == sample.rank], largest)
            axis.set_title(f"z = {significant(sample.activation)}", loc="right", fontsize=7, pad=2)
            token = (sample.token_start, sample.token_end)
            write_prompt(axis, sample.text, token, grid.cell_mm, PROMPT_LINES)
            if column == 0:
                axis.set_title(name, loc="left", fontsize=7.5, weight="bold", pad=2)
    return figure


def attention_grid(rows: pd.DataFrame) -> np.ndarray:
    """Return the weights of one sample as (patch rows, patch columns)."""
    grid = np.zeros((int(rows["row"].max()) + 1, int(rows["col"].max()) + 1))
    grid[rows["row"].to_numpy(), rows["col"].to_numpy()] = rows["weight"].to_numpy(float)
    return grid


def keep_shape(axis: Axes) -> None:
    """Leave margins beside a picture that is not square, instead of stretching it."""
    axis.set_aspect("equal", adjustable="datalim")


def covered(patches: pd.DataFrame, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return left, right, bottom and top edge of the patches of one sample, in pixels of its picture."""
    one = patches.iloc[0]
    width, height = size
    return one["left"] * width, one["right"] * width, one["bottom"] * height, one["top"] * height


def draw_attention(
    axis: Axes,
    image: np.ndarray,
    grid: np.ndarray,
    extent: tuple[float, float, float, float],
    largest: float,
) -> None:
    """Draw an image, darker the further a patch is below `largest`, with the strongest patch framed.

    Args:
        axis: where.
        image: the picture.
        grid: weights of the patches.
        extent: left, right, bottom and top edge of the patches, in pixels of the picture.
        largest: weight that is not darkened.
    """
    height, width = image.shape[:2]
    axis.imshow(image, extent=(0, width, height, 0), interpolation="nearest")
    shade = np.zeros((*grid.shape, 4))
    shade[..., 3] = 0.7 * (1 - grid / max(largest, 1e-12))
    axis.imshow(shade, extent=extent, interpolation="nearest")
    row, column = np.unravel_index(grid.argmax(), grid.shape)
    left, right, bottom, top = extent
    cell = ((right - left) / grid.shape[1], (bottom - top) / grid.shape[0])
    x, y = left + column * cell[0], top + row * cell[1]
    axis.plot(
        [x, x + cell[0], x + cell[0], x, x], [y, y, y + cell[1], y + cell[1], y], color=VERMILION, lw=1.4,
        clip_on=False,
    )  # fmt: skip
    axis.set(xlim=(min(0, left), max(width, right)), ylim=(max(height, bottom), min(0, top)))
    keep_shape(axis)


def percent(share: float) -> str:
    """Write a share of the attention; what would be rounded to nothing is said to be below 0.1 %."""
    return f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %"


@styled
def attention_map(attention: pd.DataFrame, samples: pd.DataFrame) -> Figure:
    """Draw where a feature's top head looks, from the token on which the feature fires most.

    Shades have one scale per feature, and below each picture stands how much of the attention goes to the
    image at all: a head that ignores the image must not look as though it looked somewhere.

    Args:
        attention: HEAD_ATTENTION of one concept and seed: a row of pictures per feature.
        samples: columns sample_id, image (path) and prompt.
    """
    if attention.empty:
        return message_figure("No feature was traced: there is no attention to show.", DOUBLE_MM)
    known = samples.set_index("sample_id")
    names = list(dict.fromkeys(attention["name"]))[:FEATURES]
    attention = attention[attention["name"].isin(names) & (attention["sample_rank"] < COLUMNS)]
    captions = {
        key: f"{known.loc[patches['sample_id'].iloc[0], 'prompt']} [from '{patches['token'].iloc[0]}': "
        f"{percent(patches['weight'].sum())} on image]"
        for key, patches in attention.groupby(["name", "sample_rank"])
    }
    grid = Grid.of(len(names), int(attention["sample_rank"].max()) + 1, captions.values())
    figure = grid.figure()
    for row, name in enumerate(names):
        shown = attention[attention["name"] == name]
        for column, (rank, patches) in enumerate(shown.groupby("sample_rank")):
            axis = grid.axes(figure, row, column)
            image = read_image(known.loc[patches["sample_id"].iloc[0], "image"])
            extent = covered(patches, (image.shape[1], image.shape[0]))
            draw_attention(axis, image, attention_grid(patches), extent, float(shown["weight"].max()))
            write_prompt(axis, captions[name, rank], (-1, -1), grid.cell_mm, PROMPT_LINES)
            if column == 0:
                title = f"{name}, {patches['head_name'].iloc[0]}"
                axis.set_title(title, loc="left", fontsize=7.5, weight="bold", pad=2)
    return figure
