"""Drawing of scenes with Pillow, one object per patch of the vision tower."""

from PIL import Image, ImageDraw

from vlmdiff.world.scenes import GRID, Scene, SceneObject

PATCH_PIXELS = 12
IMAGE_PIXELS = GRID * PATCH_PIXELS
BACKGROUND = (236, 236, 236)
RGB = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 80, 200),
    "yellow": (240, 215, 20),
    "purple": (140, 60, 190),
    "orange": (255, 127, 14),
}
HALF_WIDTH = {"small": 0.25, "large": 0.45}
OVERSAMPLING = 8


def draw_image(scene: Scene) -> Image.Image:
    """Draw a scene as an RGB image of 36 x 36 pixels with smooth edges."""
    side = IMAGE_PIXELS * OVERSAMPLING
    image = Image.new("RGB", (side, side), BACKGROUND)
    canvas = ImageDraw.Draw(image)
    for thing in scene.objects:
        _draw_object(canvas, thing)
    return image.reduce(OVERSAMPLING)


def _draw_object(canvas: ImageDraw.ImageDraw, thing: SceneObject) -> None:
    """Draw one object at the centre of its cell."""
    cell = PATCH_PIXELS * OVERSAMPLING
    x, y = (thing.column + 0.5) * cell, (thing.row + 0.5) * cell
    half = HALF_WIDTH[thing.size] * cell
    box = (x - half, y - half, x + half, y + half)
    fill = RGB[thing.colour]
    if thing.shape == "circle":
        canvas.ellipse(box, fill=fill)
    elif thing.shape == "square":
        canvas.rectangle(box, fill=fill)
    elif thing.shape == "triangle":
        canvas.polygon([(x, y - half), (x + half, y + half), (x - half, y + half)], fill=fill)
    elif thing.shape == "cross":
        arm = half / 3
        canvas.rectangle((x - arm, y - half, x + arm, y + half), fill=fill)
        canvas.rectangle((x - half, y - arm, x + half, y + arm), fill=fill)
    else:
        raise ValueError(f"no way to draw the shape {thing.shape!r}: add it to draw.py")
