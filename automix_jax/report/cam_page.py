"""A page of images with maps over them: tiles with two lines below, under a title."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from automix_jax.evaluate import panel
from automix_jax.evaluate.localization.resize import normalize_maps, upsample_cubic
from automix_jax.report.charts import GRAY

# Pixels of the page, which is twice as wide as a column of text.
_TILE = 168  # the longer side of a tile at most
_FRAME = 4  # width of a coloured one, outside of the tile
_GAP, _SPACE, _MARGIN = 14, 34, 18  # between tiles, between blocks, around them
_TITLE, _TEXT, _LEADING = 28, 20, 25  # sizes of type, and from line to line
_INK = "#1f2328"
_HEAT = 0.5  # share of the colours of a map over an image


class Tile(NamedTuple):
    """An image with up to two lines below.

    Attributes:
        image: of the size of a tile, see `tile_size`.
        lines: of text; what is too long is cut off.
        color: of a frame, and of the second line; None for no frame.
    """

    image: UInt8[np.ndarray, "h w 3"]
    lines: Sequence[str] = ()
    color: str | None = None


class Block(NamedTuple):
    """Rows of equally many tiles under a title."""

    title: str
    rows: Sequence[Sequence[Tile]]


def tile_size(shape: Sequence[int]) -> tuple[int, int]:
    """(width, height) of the tiles of images [H, W]: a whole multiple, where there is room."""
    scale = _TILE / max(shape)
    scale = int(scale) if scale >= 1 else scale
    height, width = (max(round(side * scale), 1) for side in shape)
    return width, height


def enlarge(image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """An image at the size of a tile."""
    return np.asarray(panel.tile(image, tile_size(image.shape[:2])))


def overlay(
    image: UInt8[np.ndarray, "h w c"], score_map: Float[np.ndarray, "rows columns"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Lays a map's colours over an image, from blue, its least value, to red, its greatest.

    The map is resized to the image and scaled to [0, 1]. Colours and image count one half each, and
    the brightest value becomes 255.
    """
    height, width, _ = image.shape
    scaled = normalize_maps(upsample_cubic(score_map[None], height, width))[0]
    colors = matplotlib.colormaps["jet"](scaled)[..., :3]
    mixed = _HEAT * colors + (1 - _HEAT) * image / 255  # gray is broadcast
    return np.rint(255 * mixed / mixed.max()).astype(np.uint8)


def draw(blocks: Sequence[Block], note: str, across: int) -> Image.Image:
    """Draws blocks on a page, row after row, and a note below.

    Args:
        blocks: of equally many rows of equally many tiles of one size; at least one.
        note: a few sentences.
        across: how many blocks are in a row.
    """
    rows = blocks[0].rows
    tile_width = rows[0][0].image.shape[1]
    across = min(across, len(blocks))
    title = (_TITLE + 14) if any(block.title for block in blocks) else 0
    width = len(rows[0]) * (tile_width + _GAP) - _GAP
    height = title + sum(map(_row_height, rows)) + _SPACE // 2
    page_width = 2 * _MARGIN + across * (width + _SPACE) - _SPACE
    font = ImageFont.load_default(_TEXT)
    letter = font.getlength(note) / len(note)  # on average, in a line of many
    note = textwrap.fill(note, int((page_width - 2 * _MARGIN) / letter) - 2)
    foot = _MARGIN + -(-len(blocks) // across) * height
    page_height = foot + (note.count("\n") + 1) * _LEADING + _MARGIN
    page = Image.new("RGB", (page_width, page_height), "white")
    for i, block in enumerate(blocks):
        corner = (_MARGIN + i % across * (width + _SPACE), _MARGIN + i // across * height)
        _draw_block(page, block, corner, title)
    spacing = _LEADING - _TEXT
    ImageDraw.Draw(page).text((_MARGIN, foot), note, GRAY, font, spacing=spacing)
    return page


def _row_height(row: Sequence[Tile]) -> int:
    """Of tiles, their text and the gap below."""
    return row[0].image.shape[0] + max(len(tile.lines) for tile in row) * _LEADING + _GAP


def _draw_block(page: Image.Image, block: Block, corner: tuple[int, int], title: int) -> None:
    pen, (left, top) = ImageDraw.Draw(page), corner
    pen.text(corner, block.title, _INK, ImageFont.load_default(_TITLE))
    top += title
    for row in block.rows:
        for i, tile in enumerate(row):
            _draw_tile(page, tile, (left + i * (tile.image.shape[1] + _GAP), top))
        top += _row_height(row)


def _draw_tile(page: Image.Image, tile: Tile, corner: tuple[int, int]) -> None:
    pen, font, (left, top) = ImageDraw.Draw(page), ImageFont.load_default(_TEXT), corner
    height, width = tile.image.shape[:2]
    if tile.color:
        around = (left - _FRAME, top - _FRAME, left + width + _FRAME - 1, top + height + _FRAME - 1)
        pen.rectangle(around, fill=tile.color)
    page.paste(Image.fromarray(tile.image), corner)
    for i, line in enumerate(tile.lines):
        place = (left + width // 2, top + height + _FRAME + 3 + i * _LEADING)
        color = (tile.color or GRAY) if i else _INK
        pen.text(place, _fitted(line, font, width + _GAP - 4), color, font, anchor="ma")


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, cut off where it is wider."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text.rstrip()}..."
