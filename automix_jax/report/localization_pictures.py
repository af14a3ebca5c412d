"""A page of images with their true boxes, the boxes found, and the score maps these come from."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from automix_jax.evaluate import panel
from automix_jax.evaluate.localization.boxes import largest_box
from automix_jax.evaluate.localization.metric import intersection_over_union

_TILE = 140  # pixels a side, as large as the page shows a tile
_ACROSS = 4
_TITLE = 30  # size of the page's titles
_TRUE, _FOUND, _SHADE = "#3fb950", "#f85149", "#1f2328"
_HEAT = 0.55  # share of the colours of the map in its tile
_NOTE = (
    "Green: the true box. Red dashes: the box around the largest part of the score map above"
    " {share:.3f} of its greatest value. IoU: what the two have in common, as share of what they"
    " cover. Beside it: the score map on the image, from blue, its least value, to red, its"
    " greatest."
)


class Localized(NamedTuple):
    """An image, its boxes and its score map.

    Attributes:
        image: [S, S, 1 or 3].
        score_map: [S, S] in [0, 1].
        boxes: [M, 4], the true ones, left, top, right and bottom.
        name: of its class.
    """

    image: UInt8[np.ndarray, "s s c"]
    score_map: Float[np.ndarray, "s s"]
    boxes: Int[np.ndarray, "m 4"]
    name: str


def draw(path: Path, examples: Sequence[Localized], share: float) -> tuple[int, int]:
    """Writes a PNG with a block for each example.

    Args:
        path: of the picture; its folder exists.
        examples: at least one.
        share: the threshold that boxes are found at, as share of a map's greatest level.

    Returns:
        Width and height.

    Raises:
        ConfigError: if the picture cannot be written.
    """
    blocks = [_block(example, share) for example in examples]
    page = panel.draw(blocks, _NOTE.format(share=share), _ACROSS)
    panel.save(page, path)
    return page.size


def _block(example: Localized, share: float) -> panel.Block:
    found = largest_box(example.score_map, share)
    overlap = intersection_over_union(found[None], example.boxes).max()
    boxed = _tile(example.image)
    for box in example.boxes:
        boxed = _outlined(boxed, box, len(example.image), _TRUE)
    dashes = Image.fromarray(
        np.indices((_TILE, _TILE)).sum(0) % 12 < 8
    )  # between them, green shows
    boxed.paste(_outlined(boxed, found, len(example.image), _FOUND), mask=dashes)
    images = np.stack([np.asarray(boxed), _heated(example)])
    name = _shortened(example.name.replace("_", " "), 2 * _TILE)
    return panel.Block(name, [panel.Strip(images, [f"IoU {overlap:.2f}"])])


def _tile(pixels: np.ndarray) -> Image.Image:
    return panel.tile(pixels, (_TILE, _TILE))


def _outlined(picture: Image.Image, box: np.ndarray, size: int, color: str) -> Image.Image:
    """A tile with a box of an image of size x size, with a dark line on both sides of its frame."""
    picture = picture.copy()
    left, top = box[:2] * (_TILE / size)
    right, bottom = np.maximum((box[2:] + 1) * (_TILE / size) - 1, [left, top])
    pen = ImageDraw.Draw(picture)
    for inset, shade in ((0, _SHADE), (1, color), (2, color), (3, _SHADE)):
        if right - left >= 2 * inset and bottom - top >= 2 * inset:
            corners = (left + inset, top + inset, right - inset, bottom - inset)
            pen.rectangle(corners, outline=shade)
    return picture


def _heated(example: Localized) -> np.ndarray:
    """The colours of the score map over the image in gray, uint8 [H, W, 3]."""
    gray = np.asarray(_tile(example.image).convert("L"), float)[..., None]
    levels = Image.fromarray((example.score_map * 255).astype(np.uint8))
    smooth = np.asarray(levels.resize((_TILE, _TILE), Image.Resampling.BILINEAR))
    colors = matplotlib.colormaps["turbo"](smooth)[..., :3] * 255
    return np.rint((1 - _HEAT) * gray + _HEAT * colors).astype(np.uint8)


def _shortened(text: str, width: int) -> str:
    """A title, cut off where it is too long."""
    font = ImageFont.load_default(_TITLE)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text.rstrip()}..."
