"""Pictures of mixed images: what a method shows of two images at several ratios."""

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, UInt8

from automix_jax.automix import AutoMix
from automix_jax.errors import DataError
from automix_jax.mixblock import mix_images, predict_mask
from automix_jax.mixup_training import AugMixTraining, MixupTraining
from automix_jax.objective import Frozen, forward

RATIOS = (0.0, 0.3, 0.7, 1.0)
HALF = 0.5  # the ratio of what is kept as numbers
PAIRS = 6
_TILE, _GAP, _HEADER = 84, 4, 16  # pixels


# From (state, uint8 images, labels, lam) to masks, 1 where the image shows, and mixed images from 0
# to 255.
Mixer = Callable[[PyTree, Array, Array, float], tuple[Array, Array]]


def automix_mixer(objective: AutoMix, normalize: Callable[[Array], Array]) -> Mixer:
    """Mixes with a state's MixBlock; partners are the batch turned by one.

    MixBlock's encoder uses the batch's statistics, as in training, but drops nothing.
    """
    backbone = objective.model.backbone.clone(drop_path=0.0, dropout=0.0)
    model, mixblock = objective.model.clone(backbone=backbone), objective.mixblock

    @jax.jit
    def mix(state, images, labels, lam):
        del labels
        perm = _next(images)
        rngs = jax.random.key(0)[None]
        _, features, _ = forward(model, *state.encoder, normalize(images), rngs, objective.layer)
        params = {"params": state.params["mixblock"]}
        projections = mixblock.apply(params, features[objective.layer], method="project")
        mask = predict_mask(projections, lam, perm, images.shape[1:3], mixblock.upsample)
        return mask, mix_images(images.astype(jnp.float32), mask, perm)

    return mix


def mixup_mixer(
    objective: MixupTraining | AugMixTraining,
    normalize: Callable[[Array], Array],
    denormalize: Callable[[Array], Array],
    guide: PyTree,
) -> Mixer:
    """The same for a plain mixup, whose mask is the ratio itself where there is none.

    Of what a method mixes inside the network, the same blend of the images is shown.
    """

    @jax.jit
    def mix(state, images, labels, lam):
        frozen = Frozen(state.teacher, state.student_stats, state.teacher_stats, guide)
        inputs, perm = normalize(images), _next(images)
        mixed = objective.preview(state.params, frozen, inputs, labels, lam, perm)
        weight = mixed.info["lam"][:, None, None, None]
        mask = mixed.info.get("mask", jnp.broadcast_to(weight, (*images.shape[:3], 1)))
        shown = mixed.images if mixed.transform is None else mix_images(inputs, mask, perm)
        return mask, denormalize(shown)

    return mix


def _next(images: Array) -> Array:
    return jnp.roll(jnp.arange(len(images)), -1)


Columns = list[tuple[str, np.ndarray]]  # titles, and a batch of images [B, H, W, C] each


def mix_columns(
    images: UInt8[np.ndarray, "b h w c"],
    mix: Callable[[float], tuple[Float[Array, "b h w 1"], Float[Array, "b h w c"]]],
) -> Columns:
    """The images, their partners, and for each ratio the masks and the mixed images.

    Args:
        images: a batch; the partner of each is the next.
        mix: from a ratio to masks (white shows the image) and mixed images (0 to 255) of the batch.
    """
    columns: Columns = [("image", images), ("partner", np.roll(images, -1, axis=0))]
    for ratio in RATIOS:
        mask, mixed = jax.device_get(mix(ratio))
        columns += [(f"mask {ratio:g}", 255 * mask), (f"mixed {ratio:g}", mixed)]
    return columns


class Snapshot(NamedTuple):
    """What a method makes of the same pairs after an epoch, at ratio one half.

    Attributes:
        images: uint8 [P, H, W, C].
        partners: likewise, of each image.
        mixed: likewise.
        masks: float16 [P, H, W, 1], the weight of the own image.
        names: of the images' classes.
        partner_names: of the partners' classes.
        mean: float32 [B], over the pixels of each mask, of more pairs than these.
        std: likewise, the standard deviation over the pixels.
    """

    images: np.ndarray
    partners: np.ndarray
    mixed: np.ndarray
    masks: np.ndarray
    names: np.ndarray
    partner_names: np.ndarray
    mean: np.ndarray
    std: np.ndarray


def snapshot(
    images: UInt8[np.ndarray, "b h w c"],
    mask: Float[np.ndarray, "b h w 1"],
    mixed: Float[np.ndarray, "b h w c"],
    names: list[str],
) -> Snapshot:
    """Keeps the first pairs of a batch, and how large and how uniform all its masks are.

    Args:
        images: a batch; the partner of each is the next.
        mask: weight of the own image, at ratio one half.
        mixed: 0 to 255.
        names: of the images' classes.
    """
    first = slice(PAIRS)
    wide = mask.astype(np.float32)
    return Snapshot(
        images=images[first],
        partners=np.roll(images, -1, axis=0)[first],
        mixed=np.clip(np.rint(mixed[first]), 0, 255).astype(np.uint8),
        masks=mask[first].astype(np.float16),
        names=np.array(names[first]),
        partner_names=np.roll(names, -1)[first],
        mean=wide.mean((1, 2, 3)),
        std=wide.std((1, 2, 3)),
    )


def save_snapshot(path: Path, shown: Snapshot) -> None:
    """Writes an .npz that appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **shown._asdict())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_snapshot(path: Path) -> Snapshot:
    """Reads what `save_snapshot` has written.

    Raises:
        DataError: if the file is another, or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return Snapshot(**{name: arrays[name] for name in Snapshot._fields})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read ({error or type(error).__name__}): remove it."
        ) from error


def save_panel(path: Path, columns: Columns, names: list[str]) -> None:
    """Writes a PNG with a row for each of the first pairs.

    Args:
        path: of the picture; its folder exists.
        columns: see `mix_columns`.
        names: of the images' classes.
    """
    from PIL import Image, ImageDraw

    from automix_jax.evaluate.panel import tile

    rows = min(PAIRS, len(names))
    pitch = _TILE + _GAP
    panel = Image.new(
        "RGB", (len(columns) * pitch + _GAP, _HEADER + rows * (pitch + _HEADER)), "white"
    )
    draw = ImageDraw.Draw(panel)
    for x, (title, column) in enumerate(columns):
        left = _GAP + x * pitch
        draw.text((left, 2), title, "black")
        for y in range(rows):
            top = _HEADER + y * (pitch + _HEADER)
            panel.paste(tile(column[y], (_TILE, _TILE)), (left, top))
            if x < 2:
                draw.text((left, top + _TILE), names[(y + x) % len(names)][:14], "gray")
    panel.save(path)
