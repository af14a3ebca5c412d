"""Pictures of mixed images: what MixBlock has learned to show of two images at several ratios."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, UInt8

from automix_jax.mixblock import MixBlock, mix_images, predict_mask
from automix_jax.mixups import Mixup
from automix_jax.objective import forward

RATIOS = (0.0, 0.3, 0.7, 1.0)
PAIRS = 6
_TILE, _GAP, _HEADER = 84, 4, 16  # pixels


def automix_mixer(
    model, mixblock: MixBlock, layer: str, normalize: Callable[[Array], Array]
) -> Callable[[PyTree, PyTree, PyTree, Array, float], tuple[Array, Array]]:
    """Returns a function from (teacher, its stats, MixBlock params, uint8 images, lam) to masks.

    Partners are the batch turned by one. The teacher uses the batch's statistics, as in training,
    but drops nothing.
    """
    model = model.clone(backbone=model.backbone.clone(drop_path=0.0, dropout=0.0))

    @jax.jit
    def mix(teacher, stats, params, images, lam):
        perm = jnp.roll(jnp.arange(len(images)), -1)
        inputs = normalize(images)
        rngs = jax.random.key(0)[None]
        _, features, _ = forward(model, teacher, stats, inputs, rngs, layer)
        projections = mixblock.apply({"params": params}, features[layer], method="project")
        mask = predict_mask(projections, lam, perm, images.shape[1:3], mixblock.upsample)
        return mask, mix_images(images.astype(jnp.float32), mask, perm)

    return mix


def mixup_mixer(mix: Mixup) -> Callable[[Array, float], tuple[Array, Array]]:
    """The same for a plain mixup: masks (the ratio itself where there is none) and images."""

    @jax.jit
    def apply(images, lam):
        perm = jnp.roll(jnp.arange(len(images)), -1)
        labels = jnp.zeros(len(images), jnp.int32)
        mixed = mix(
            jax.random.key(0), images.astype(jnp.float32), labels, num_classes=1, lam=lam, perm=perm
        )
        lam = mixed.info["lam"][:, None, None, None]
        mask = mixed.info.get("mask", jnp.broadcast_to(lam, (*images.shape[:3], 1)))
        return mask, mixed.images

    return apply


def save_panel(
    path: Path,
    images: UInt8[np.ndarray, "b h w c"],
    names: list[str],
    mix: Callable[[float], tuple[Float[Array, "b h w 1"], Float[Array, "b h w c"]]],
) -> None:
    """Writes a PNG with a row for each of the first pairs.

    A row is an image, its partner, and then, for each ratio, a mask (white shows the image) and
    the mixed image.

    Args:
        path: of the picture; its folder exists.
        images: a batch; the partner of each is the next.
        names: of their classes.
        mix: from a ratio to masks and mixed images (0 to 255) of the batch.
    """
    from PIL import Image, ImageDraw

    columns: list[tuple[str, np.ndarray]] = [
        ("image", images),
        ("partner", np.roll(images, -1, axis=0)),
    ]
    for ratio in RATIOS:
        mask, mixed = jax.device_get(mix(ratio))
        columns += [(f"mask {ratio:g}", 255 * mask), (f"mixed {ratio:g}", mixed)]
    rows = min(PAIRS, len(images))
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
            tile = np.clip(np.rint(column[y]), 0, 255).astype(np.uint8)
            tile = np.repeat(tile, 3, axis=-1) if tile.shape[-1] == 1 else tile
            scaled = Image.fromarray(tile).resize((_TILE, _TILE), Image.Resampling.NEAREST)
            panel.paste(scaled, (left, top))
            if x < 2:
                draw.text((left, top + _TILE), names[(y + x) % len(names)][:14], "gray")
    panel.save(path)
