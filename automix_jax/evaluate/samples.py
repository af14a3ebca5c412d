"""Pictures of mixed images: what a method shows of two images at several ratios."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, UInt8

from automix_jax.automix import AutoMix
from automix_jax.mixblock import mix_images, predict_mask
from automix_jax.mixup_training import AugMixTraining, MixupTraining
from automix_jax.objective import Frozen, forward

RATIOS = (0.0, 0.3, 0.7, 1.0)
PAIRS = 6
_TILE, _GAP, _HEADER = 84, 4, 16  # pixels


# From (state, uint8 images, labels, lam) to masks, 1 where the image shows, and mixed images from 0
# to 255.
Mixer = Callable[[PyTree, Array, Array, float], tuple[Array, Array]]


def automix_mixer(objective: AutoMix, normalize: Callable[[Array], Array]) -> Mixer:
    """Mixes with a state's MixBlock; partners are the batch turned by one.

    The teacher uses the batch's statistics, as in training, but drops nothing.
    """
    backbone = objective.model.backbone.clone(drop_path=0.0, dropout=0.0)
    model, mixblock = objective.model.clone(backbone=backbone), objective.mixblock

    @jax.jit
    def mix(state, images, labels, lam):
        del labels
        perm = _next(images)
        rngs = jax.random.key(0)[None]
        _, features, _ = forward(
            model, state.teacher, state.teacher_stats, normalize(images), rngs, objective.layer
        )
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
