"""Images to square uint8 arrays: decoding, colour, resizing, all with Pillow."""

from __future__ import annotations

import concurrent.futures
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from automix_jax.data.dataset import Split, check_memory
from automix_jax.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")


def decode_image(
    source: Path | bytes, where: str, image_size: int | None = None, channels: int = 3
) -> np.ndarray:
    """Decodes one image file, upright and in the colours a viewer shows.

    The EXIF orientation is applied. Palettes and CMYK become RGB, 16-bit samples keep their high
    byte, transparent parts are laid on white, of an animation the first frame is taken.

    Args:
        source: a path, or the bytes of a file.
        where: what to call the image in an error.
        image_size: side of the square to resize and crop to; None keeps the image as it is.
        channels: 3 for RGB, 1 for gray.

    Returns:
        uint8 [H, W, channels].

    Raises:
        DataError: if the image cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            image = _to_mode(ImageOps.exif_transpose(file), "RGB" if channels == 3 else "L")
    except Exception as error:  # Pillow's plugins raise a dozen types on a broken file.
        raise DataError(
            f"cannot read the image {where} ({type(error).__name__}: {error}); "
            "replace or remove that file"
        ) from error
    if image_size is not None:
        image = _fit_square(image, image_size)
    return np.asarray(image).reshape(image.height, image.width, channels)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Converts an image of any Pillow mode to "RGB" or "L"."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined white; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit gray: Pillow's own conversion would clip, not scale.
        samples = np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
        return Image.fromarray((samples >> 8).astype(np.uint8)).convert(mode)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert(mode)


def _fit_square(image: Image.Image, image_size: int) -> Image.Image:
    """Resizes the shorter side to image_size and crops the centre, in one antialiased bicubic."""
    from PIL import Image

    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    # Only the pixels of the crop are computed, but the filter sees the image around it: the result
    # is that of resizing everything first.
    box = (left, top, left + side, top + side)
    return image.resize((image_size, image_size), Image.Resampling.BICUBIC, box=box)


def resize_split(split: Split, image_size: int | None) -> Split:
    """Resizes images [N, H, W, C] to [N, image_size, image_size, C]; nothing to do gives `split`.

    The shorter side becomes image_size by antialiased bicubic, then the centre is cropped.
    """
    from PIL import Image

    if image_size is None or split.images.shape[1:3] == (image_size, image_size):
        return split
    num_images, *_, channels = split.images.shape
    resized = np.empty((num_images, image_size, image_size, channels), np.uint8)
    for image, out in zip(split.images, resized, strict=True):
        square = _fit_square(
            Image.fromarray(image.squeeze(-1) if channels == 1 else image), image_size
        )
        out[...] = np.asarray(square).reshape(out.shape)
    return Split(resized, split.labels)


def load_images(
    decode: Callable[[int], np.ndarray], num_images: int, description: str
) -> np.ndarray:
    """Decodes images in parallel into one array, with a progress bar on a terminal.

    Args:
        decode: gives image i as uint8 [H, W, C]; called from several threads.
        num_images: N; at least 1.
        description: what the progress bar and the errors call the images.

    Returns:
        uint8 [N, H, W, C].

    Raises:
        DataError: what `decode` raises, or if image i has another shape than image 0, or if the
          images do not fit in memory.
    """
    first = decode(0)
    check_memory(num_images, first.shape, description)
    images = np.empty((num_images, *first.shape), np.uint8)

    def fill(index: int) -> None:
        image = decode(index)
        if image.shape != first.shape:
            raise DataError(
                f"{description}: image {index} has shape {list(image.shape)} but image 0 has "
                f"{list(first.shape)}; set config.data.image_size to bring all to one size"
            )
        images[index] = image

    # Pillow releases the GIL while it decodes and resizes.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = [pool.submit(fill, index) for index in range(num_images)]
        try:
            for future in _progress(futures, description):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return images


def _progress(items: list[T], description: str) -> Iterable[T] | Iterator[T]:
    """The items, drawn as a progress bar if someone is watching stderr."""
    if not sys.stderr.isatty():
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, description, console=Console(stderr=True), transient=True)
