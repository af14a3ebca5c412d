"""Images to square uint8 arrays: decoding, colour, resizing, all with Pillow."""

from __future__ import annotations

import contextlib
import errno
import io
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from automix_jax.data.dataset import Split, check_memory
from automix_jax.data.progress import each_image
from automix_jax.data.records import ImageSource
from automix_jax.errors import DataError, ImageError

if TYPE_CHECKING:
    from PIL import Image

# What the system says where a file is missing, forbidden or no file at all; and EINVAL, where an
# image says that a part of it lies before its start. Pillow's own errors have no number.
_OF_THE_FILE = (
    None,
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP),
    errno.EINVAL,
)

# Pillow warns of an image of 90 million pixels and refuses one of 180 million. What is not refused
# is decoded, without a word. This is said once, for threads cannot share a filter that comes and
# goes.
warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")


def decode_image(
    source: ImageSource, where: str, image_size: int | None = None, channels: int = 3
) -> np.ndarray:
    """Decodes one image file, upright and in the colours a viewer shows.

    Args:
        source: see `load_image`.
        where: what to call the image in an error.
        image_size: side of the square to resize and crop to; None keeps the image as it is.
        channels: 3 for RGB, 1 for gray.

    Returns:
        uint8 [H, W, channels].

    Raises:
        ImageError, DataError, MemoryError: see `reading`.
    """
    image = load_image(source, where, channels)
    if image_size is not None:
        image = fit_square(image, image_size)
    return to_array(image)


def load_image(source: ImageSource, where: str, channels: int = 3) -> Image.Image:
    """Decodes one image file to a Pillow image, upright and in the colours a viewer shows.

    The EXIF orientation is applied. Palettes and CMYK become RGB, 16-bit samples keep their high
    byte, transparent parts are laid on white, of an animation the first frame is taken. A file that
    ends too early, or an image beyond Pillow's limit of 179 million pixels, is refused.

    Args:
        source: a path, the bytes of a file, or pixels, uint8 [H, W, 1 or 3].
        where: what to call the image in an error.
        channels: 3 for RGB, 1 for gray.

    Returns:
        An image of mode "RGB" or "L".

    Raises:
        ImageError, DataError, MemoryError: see `reading`.
    """
    from PIL import Image, ImageOps

    mode = "RGB" if channels == 3 else "L"
    with reading(f"the image {where}", "replace or remove that file"):
        if isinstance(source, np.ndarray):
            return _from_array(source).convert(mode)
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            # Not one copy more than is needed: they cost a fifth of the decoding.
            ImageOps.exif_transpose(file, in_place=True)
            file.load()
            return _to_mode(file, mode)


@contextlib.contextmanager
def reading(what: str, remedy: str) -> Iterator[None]:
    """Tells what is wrong with an image from what goes wrong while it is read.

    Args:
        what: is read.
        remedy: if it is at fault.

    Raises:
        ImageError: if it is missing, forbidden, damaged, too large or no image.
        DataError: if the disk or the system failed.
        MemoryError: as it is.
    """
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise a dozen types on a broken file.
        if isinstance(error, OSError) and error.errno not in _OF_THE_FILE:
            raise system_error(what, error) from error
        raise ImageError(f"cannot read {what} ({describe_error(error)}); {remedy}") from error


def system_error(what: str, error: Exception) -> DataError:
    """What to raise where not an image but the machine is at fault."""
    return DataError(
        f"cannot read {what} ({describe_error(error)}): the disk or the system failed, the image "
        "may be sound; mend that, then run the same command again"
    )


def describe_error(error: BaseException) -> str:
    """The type and the text of an error, the same in every run."""
    from PIL import UnidentifiedImageError

    # Pillow's text for a file of no format may name an address in memory.
    unknown = isinstance(error, UnidentifiedImageError)
    return f"{type(error).__name__}: {'cannot identify image file' if unknown else error}"


def to_array(image: Image.Image) -> np.ndarray:
    """The pixels of an image of mode "RGB" or "L", uint8 [H, W, 3 or 1]."""
    return np.asarray(image).reshape(image.height, image.width, -1)


def _from_array(pixels: np.ndarray) -> Image.Image:
    """The image of uint8 [H, W, 1 or 3]."""
    from PIL import Image

    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise ValueError(
            f"its pixels are {pixels.dtype}{list(pixels.shape)}, not uint8[H, W, 1 or 3]"
        )
    if 0 in pixels.shape:
        raise ValueError(f"it has no pixels, shape {list(pixels.shape)}")
    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[2] == 1 else pixels)


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
    return image if image.mode == mode else image.convert(mode)


def fit_square(image: Image.Image, image_size: int, interpolation: str = "bicubic") -> Image.Image:
    """Resizes the shorter side to image_size and crops the centre, in one antialiased resize."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    # Only the pixels of the crop are computed, but the filter sees the image around it: the result
    # is that of resizing everything first.
    box = (left, top, left + side, top + side)
    return image.resize((image_size, image_size), resampling(interpolation), box=box)


def resampling(interpolation: str) -> Image.Resampling:
    """Pillow's filter called "bicubic" or "bilinear"."""
    from PIL import Image

    return Image.Resampling[interpolation.upper()]


def resize_split(split: Split, image_size: int | None) -> Split:
    """Resizes images [N, H, W, C] to [N, image_size, image_size, C]; nothing to do gives `split`.

    The shorter side becomes image_size by antialiased bicubic, then the centre is cropped.
    """
    if image_size is None or split.images.shape[1:3] == (image_size, image_size):
        return split
    num_images, *_, channels = split.images.shape
    resized = np.empty((num_images, image_size, image_size, channels), np.uint8)
    for image, out in zip(split.images, resized, strict=True):
        out[...] = to_array(fit_square(_from_array(image), image_size))
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
        DataError: what `decode` raises; or if image i has another shape than image 0, or if the
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

    for _ in each_image(fill, num_images, description):
        pass  # It is in its place.
    return images
