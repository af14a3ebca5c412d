"""Tiles on a page: how pictures of mixed images are drawn and written."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from automix_jax.errors import ConfigError

# Pixels of the page, which is twice as wide as a column of text: sharp on any screen.
_TILE = 140  # the longer side of a tile at most
_GAP, _SPACE, _MARGIN = 4, 28, 16  # between tiles, between blocks, around them
_TITLE, _CAPTION = 30, 24  # sizes of type
_INK, _GRAY, _LINE = "#1f2328", "#59636e", "#d1d9e0"


class Strip(NamedTuple):
    """Tiles side by side, each with a line of text below.

    Attributes:
        images: [B, H, W, C] from 0 to 255, or None where the place stays empty.
        captions: one each, or none.
    """

    images: np.ndarray | None
    captions: Sequence[str] = ()


class Block(NamedTuple):
    """Strips below each other, under a title."""

    title: str
    strips: Sequence[Strip]


def tile(image: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """An image [H, W, C] from 0 to 255 in RGB at a size (width, height).

    Enlarged, its pixels stay squares; made smaller, they are averaged.
    """
    pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    pixels = np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels
    smaller = pixels.shape[1] > size[0]
    how = Image.Resampling.LANCZOS if smaller else Image.Resampling.NEAREST
    return Image.fromarray(pixels).resize(size, how)


def draw(blocks: Sequence[Block], note: str, across: int) -> Image.Image:
    """Draws blocks on a page, row after row, and a note below.

    Args:
        blocks: of strips of equally many tiles of one shape; at least one.
        note: a sentence or two.
        across: how many blocks are in a row.
    """
    first = blocks[0].strips[0].images
    assert first is not None  # the first block is of images
    size = _tile_size(first.shape[1:3])
    across = min(across, len(blocks))
    width, height = _block_size(blocks[0], size)
    page_width = 2 * _MARGIN + across * (width + _SPACE) - _SPACE
    font = ImageFont.load_default(_CAPTION)
    letter = font.getlength(note) / len(note)  # on average, in a line of many
    note = textwrap.fill(note, int((page_width - 2 * _MARGIN) / letter) - 2)
    note_height = (note.count("\n") + 1) * (_CAPTION + 8)
    rows = -(-len(blocks) // across)
    page = Image.new("RGB", (page_width, 2 * _MARGIN + rows * height + note_height), "white")
    for i, block in enumerate(blocks):
        left = _MARGIN + i % across * (width + _SPACE)
        _draw_block(page, block, (left, _MARGIN + i // across * height), size)
    corner = (_MARGIN, _MARGIN + rows * height)
    ImageDraw.Draw(page).text(corner, note, _GRAY, font, spacing=8)
    return page


def save(page: Image.Image, path: Path) -> None:
    """Writes a PNG that appears whole or not at all.

    Raises:
        ConfigError: if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        try:
            page.save(temporary, "PNG", optimize=True)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror or error}): choose another."
        ) from error


def _tile_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """(width, height) of the tiles of images [H, W]: a whole multiple, where there is room."""
    scale = _TILE / max(shape)
    scale = int(scale) if scale >= 1 else scale
    height, width = (max(round(side * scale), 1) for side in shape)
    return width, height


def _block_size(block: Block, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a block with the space below its last captions."""
    images = block.strips[0].images
    assert images is not None
    width = len(images) * (size[0] + _GAP) - _GAP
    return width, _TITLE + 12 + len(block.strips) * (size[1] + _CAPTION + 10) + _SPACE // 2


def _draw_block(
    page: Image.Image, block: Block, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    pen, (left, top) = ImageDraw.Draw(page), corner
    pen.text(corner, block.title, _INK, ImageFont.load_default(_TITLE))
    top += _TITLE + 12
    font = ImageFont.load_default(_CAPTION)
    for strip in block.strips:
        for i, image in enumerate(() if strip.images is None else strip.images):
            x = left + i * (size[0] + _GAP)
            pen.rectangle((x - 1, top - 1, x + size[0], top + size[1]), outline=_LINE)
            page.paste(tile(image, size), (x, top))
        for i, caption in enumerate(strip.captions):
            middle = left + i * (size[0] + _GAP) + size[0] // 2
            text = _fitted(caption, font, size[0])
            pen.text((middle, top + size[1] + 4), text, _GRAY, font, anchor="ma")
        top += size[1] + _CAPTION + 10


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """As much of the beginning of a text as is no wider."""
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text
