"""Random grids: every cell of a grid shows one of the two images, by chance."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from automix_jax.mixups.base import Lam, Mixed, Per, masked
from automix_jax.mixups.sampling import lam_or_draw, perm_or_draw


def randomgrid(
    rng: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    *,
    num_classes: int,
    alpha: float = 2.0,
    cell: int = 4,
    per: Per = "batch",
    lam: Lam | None = None,
    perm: Int[Array, " b"] | None = None,
) -> Mixed:
    """Masks of the resolution of MixBlock's, drawn instead of learned (Table 7, "random grids").

    The paper names the row and defines nothing. This is our reading: each cell of an image shows it
    with probability lam, its partner otherwise, each cell by itself. The weight of the own label is
    the share of the pixels that show the own image.

    Args:
        rng, images, labels, num_classes, lam, perm: see `Mixup`.
        alpha: ratios come from Beta(alpha, alpha).
        cell: side in pixels; that of MixBlock's cells is 4 where it reads the third stage of a
            ResNet for small images. A last row or column may be smaller.
        per: one ratio for all images of a call, or one each; masks differ in any case.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from automix_jax.mixups.randomgrid import randomgrid
        >>> images, labels = jnp.ones((8, 32, 32, 3)), jnp.arange(8)
        >>> mixed = randomgrid(jax.random.key(0), images, labels, num_classes=10)
        >>> mask = mixed.info["mask"][0, ::4, ::4, 0]  # of 8 x 8 cells
        >>> bool(((mask == 0) | (mask == 1)).all())
        True
    """
    rng_lam, rng_perm, rng_cells = jax.random.split(rng, 3)
    batch, height, width = images.shape[:3]
    lam = lam_or_draw(rng_lam, lam, alpha, per, batch)
    perm = perm_or_draw(rng_perm, perm, batch)
    grid = (batch, -(-height // cell), -(-width // cell))
    chance = jax.random.uniform(rng_cells, grid)  # [B, cells, cells], in [0, 1)
    cells = (chance < lam[:, None, None]).astype(jnp.float32)
    mask = jnp.repeat(jnp.repeat(cells, cell, 1), cell, 2)[:, :height, :width, None]
    return masked(images, labels, perm, mask, num_classes)
