"""CutMix: a rectangle of the partner pasted in."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from automix_jax.mixups.base import Lam, Mixed, Per, masked
from automix_jax.mixups.boxes import box_around, outside, random_centre
from automix_jax.mixups.sampling import draws, lam_or_draw, perm_or_draw


def cutmix(
    rng: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    *,
    num_classes: int,
    alpha: float = 1.0,
    per: Per = "batch",
    lam: Lam | None = None,
    perm: Int[Array, " b"] | None = None,
) -> Mixed:
    """CutMix (Yun et al., 2019): one box, centred anywhere, holds the partner in every image.

    The box's sides are sqrt(1 - lam) of the image's, rounded down to even numbers and clipped at
    the borders; the weight of the own label is then the share of the image that the box leaves.

    Args:
        rng, images, labels, num_classes, lam, perm: see `Mixup`.
        alpha: ratios come from Beta(alpha, alpha).
        per: one ratio and box for all images of a call, as in the original, or one each.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from automix_jax import cutmix
        >>> images, labels = jnp.ones((8, 32, 32, 3)), jnp.arange(8)
        >>> mixed = cutmix(jax.random.key(0), images, labels, num_classes=10)
        >>> bool(jnp.allclose(mixed.info["mask"].mean((1, 2, 3)), mixed.info["lam"]))
        True
    """
    rng_lam, rng_perm, rng_centre = jax.random.split(rng, 3)
    lam = lam_or_draw(rng_lam, lam, alpha, per, len(labels))
    perm = perm_or_draw(rng_perm, perm, len(labels))
    centre = random_centre(rng_centre, draws(per, len(labels)), images.shape[1:3])
    box = box_around(centre, jnp.sqrt(1 - lam), images.shape[1:3])
    return masked(images, labels, perm, outside(box, images.shape[1:3]), num_classes)
