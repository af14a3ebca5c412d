"""What a network sees in images, and where: as a block of a picture, and as numbers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from automix_jax.errors import ConfigError
from automix_jax.evaluate import panel
from automix_jax.evaluate.cam import make_cam, top_classes
from automix_jax.evaluate.network import Network
from automix_jax.report import cam_page
from automix_jax.report.charts import BLUE, GREEN, RED
from automix_jax.train.workdir import write_json

_TOP = 2  # classes
_COLORS = {"image": GREEN, "partner": BLUE, "neither": RED}


class Look(NamedTuple):
    """What a network sees in images, and where.

    Attributes:
        classes: the likeliest two, from the first on.
        probabilities: theirs.
        maps: theirs, float32.
    """

    classes: Int[np.ndarray, "b k"]
    probabilities: Float[np.ndarray, "b k"]
    maps: Float[np.ndarray, "b k rows columns"]


class Shown(NamedTuple):
    """A block of the picture.

    Attributes:
        title: of the block.
        images: uint8 [B, H, W, C].
        captions: of the images.
        look: what the network sees in them.
        owners: [B, k], whose class each of them is: "image", "partner", "neither", or "" where that
            is not known.
    """

    title: str
    images: np.ndarray
    captions: Sequence[str]
    look: Look
    owners: np.ndarray


Looker = Callable[[UInt8[np.ndarray, "b h w c"]], Look]


def make_looker(network: Network, method: str | None, layer: str | None) -> Looker:
    """Returns a function from images to the likeliest classes and their maps.

    For the arguments see `make_cam`.
    """
    cam = make_cam(network, method, layer)

    @jax.jit
    def predict(variables, pixels):
        return network(pixels, variables)[0]

    def look(images):
        pixels = jnp.asarray(images, jnp.float32) / 255
        logits = predict(network.variables, pixels)
        classes, probabilities = top_classes(np.asarray(logits), _TOP)
        maps = np.stack([np.asarray(cam(pixels, column)) for column in classes.T], axis=1)
        return Look(classes, probabilities, maps)

    return look


def look_at(
    title: str,
    images: np.ndarray,
    captions: Sequence[str],
    look: Looker,
    labels: np.ndarray | None = None,
    partners: np.ndarray | None = None,
) -> Shown:
    """Looks at images.

    Args:
        title: see `Shown`, as for images and captions.
        look: from `make_looker`.
        labels: [B], the images' classes, where they are known.
        partners: [B, n], the classes that they are mixed with, if any.
    """
    seen = look(images)
    owners = np.full(seen.classes.shape, "" if labels is None else "neither")
    if partners is not None:
        owners[(seen.classes[..., None] == partners[:, None]).any(-1)] = "partner"
    if labels is not None:
        owners[seen.classes == labels[:, None]] = "image"
    return Shown(title, images, captions, seen, owners)


def split(shown: Shown, size: int) -> list[Shown]:
    """Parts of so many images each, the last of as many as are left."""
    parts = [slice(start, start + size) for start in range(0, len(shown.images), size)]
    return [
        Shown(
            shown.title,
            shown.images[part],
            shown.captions[part],
            Look(*(field[part] for field in shown.look)),
            shown.owners[part],
        )
        for part in parts
    ]


def save(
    path: Path,
    blocks: Sequence[Shown],
    note: str,
    across: int,
    class_names: Sequence[str],
    about: dict[str, Any],
) -> tuple[int, int]:
    """Writes the picture, and the numbers beside it.

    Args:
        path: FILE.png. FILE.json says which classes are seen; FILE.npz holds the images, and the
            fields of `Look`, of all blocks one after the other.
        blocks: of equally many rows.
        note: below them.
        across: how many blocks are in a row.
        class_names: of the network.
        about: it, for the JSON.

    Returns:
        Width and height of the picture.

    Raises:
        ConfigError: if they cannot be written.
    """
    page = cam_page.draw([_block(shown, class_names) for shown in blocks], note, across)
    numbers = {**about, "blocks": [_numbers(shown, class_names) for shown in blocks]}
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(shown.look, name) for shown in blocks])
        for name in Look._fields
    }
    arrays["images"] = np.concatenate([shown.images for shown in blocks])
    temporary = path.with_name(f".{path.name}.npz")
    try:
        try:
            np.savez_compressed(temporary, **arrays)
            temporary.replace(path.with_suffix(".npz"))
        finally:
            temporary.unlink(missing_ok=True)
        write_json(path.with_suffix(".json"), numbers)
    except OSError as error:
        raise ConfigError(
            f"the numbers of {path} cannot be written ({error.strerror or error}): choose another"
            " folder."
        ) from error
    panel.save(page, path)
    return page.size


def _numbers(shown: Shown, class_names: Sequence[str]) -> dict[str, Any]:
    """What is seen in the images of a block."""
    seen = shown.look
    return {
        "title": shown.title,
        "images": [
            {
                "caption": caption,
                "classes": [
                    {
                        "class": int(label),
                        "name": class_names[label],
                        "probability": float(probability),
                        "of": str(owner),
                    }
                    for label, probability, owner in zip(
                        seen.classes[i], seen.probabilities[i], shown.owners[i], strict=True
                    )
                ],
            }
            for i, caption in enumerate(shown.captions)
        ],
    }


def _block(shown: Shown, class_names: Sequence[str]) -> cam_page.Block:
    """The images, and below each a tile for each class that is seen in it."""
    tiles = [cam_page.enlarge(image) for image in shown.images]
    captions = zip(tiles, shown.captions, strict=True)
    rows = [[cam_page.Tile(tile, [caption]) for tile, caption in captions]]
    for k in range(shown.look.classes.shape[1]):
        rows.append([_tile(tile, shown, i, k, class_names) for i, tile in enumerate(tiles)])
    return cam_page.Block(shown.title, rows)


def _tile(
    tile: np.ndarray, shown: Shown, i: int, k: int, class_names: Sequence[str]
) -> cam_page.Tile:
    """Image i, and where its k-th class is seen."""
    look, owner = shown.look, str(shown.owners[i, k])
    name = class_names[look.classes[i, k]].replace("_", " ")
    percent = 100 * look.probabilities[i, k]
    share = f"{percent:.0f} % {owner}" if percent >= 0.5 else f"< 1 % {owner}"
    heated = cam_page.overlay(tile, look.maps[i, k])
    return cam_page.Tile(heated, [name, share.rstrip()], _COLORS.get(owner))
