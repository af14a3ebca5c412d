"""One picture of what every method makes of the same images."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from automix_jax.errors import DataError
from automix_jax.evaluate import panel
from automix_jax.report.mixes import Row, mix
from automix_jax.report.pictures import Pictures, choose
from automix_jax.train.trained import Restored

_TILES = 12  # side by side
_NOTE = (
    "Each image is mixed with the one to its right, the last with the first, at ratio {lam:g}."
    " Above: the mixed image, and the weight of its own label. Below: the mask, white where the own"
    " image shows, black where it does not."
)
_NOTES = {
    "augmix": "augmix mixes an image with itself, augmented.",
    "comixup": "comixup chooses its own ratios and partners.",
}


def draw(
    path: Path,
    methods: Sequence[str],
    data: str | None = None,
    *,
    size: int | None = None,
    run: Restored | None = None,
    lam: float = 0.5,
    pairs: int = 4,
    seed: int = 0,
) -> tuple[int, int]:
    """Writes the picture as a PNG.

    Args:
        path: of the picture; its folder exists.
        methods: that can be drawn, see `mixes.settle`.
        data: see `pictures.choose`; by default the run's, or the embedded images.
        size: side of the images, see `pictures.choose`.
        run: gives AutoMix, and the network that some methods look at.
        lam: the ratio.
        pairs: how many images; each is mixed with the next.
        seed: of the choice of images and of the methods' draws.

    Returns:
        Width and height.

    Raises:
        DataError: for data that cannot be used.
        ConfigError: if the picture cannot be written.
    """
    pictures = choose_images(data, pairs, size, seed, run)
    rows = track(
        mix(methods, pictures, lam, seed, run),
        "mixing",
        len(methods),
        disable=not sys.stderr.isatty(),
        console=Console(stderr=True),
        transient=True,
    )
    blocks = [_originals(pictures), *map(_block, rows)]
    note = " ".join([_NOTE.format(lam=lam), *(_NOTES[m] for m in methods if m in _NOTES)])
    page = panel.draw(blocks, note, across=max(_TILES // pairs, 1))
    panel.save(page, path)
    return page.size


def choose_images(
    data: str | None, count: int, size: int | None, seed: int, run: Restored | None
) -> Pictures:
    """The images, of the shape that the run's network reads.

    Raises:
        DataError: if they have another.
    """
    if run is None:
        return choose(data or "fashion_mnist_sample", count, size=size, seed=seed)
    own, (side, _, channels) = run.config.data, run.facts.image_shape
    if not data:
        data = f"{own.name}:{own.path}" if own.path else own.name
        size = size or own.image_size or None
    pictures = choose(data, count, size=size, channels=channels, seed=seed)
    found, wanted = (
        " x ".join(map(str, shape)) for shape in (pictures.images.shape[1:], run.facts.image_shape)
    )
    if found != wanted:
        raise DataError(
            f"the images of {data} are {found}, but the run was trained on {wanted}: give"
            f" --size={side}, or other data."
        )
    return pictures


def _originals(pictures: Pictures) -> panel.Block:
    """The images above their partners."""
    images = pictures.images
    names = [name.replace("_", " ") for name in pictures.names]
    partners = panel.Strip(np.roll(images, -1, axis=0), [*names[1:], names[0]])
    return panel.Block("image, and its partner", [panel.Strip(images, names), partners])


def _block(row: Row) -> panel.Block:
    masks = None if row.masks is None else 255 * row.masks
    captions = [f"{lam:.2f}" for lam in row.lam]
    return panel.Block(row.method, [panel.Strip(row.images, captions), panel.Strip(masks)])
