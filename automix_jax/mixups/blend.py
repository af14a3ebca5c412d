"""No mixing at all, and MixUp: whole images blended."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from automix_jax.mixups.base import Lam, Mixed, Per, paired
from automix_jax.mixups.sampling import lam_or_draw, perm_or_draw


def vanilla(
    rng: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    *,
    num_classes: int,
    lam: Lam | None = None,
    perm: Int[Array, " b"] | None = None,
) -> Mixed:
    """Leaves the images alone; the targets are one-hot and a given ratio or pairing is not used."""
    del rng, lam, perm
    return paired(images, labels, jnp.arange(len(labels)), 1.0, num_classes)


def mixup(
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
    """MixUp (Zhang et al., 2018): every image becomes lam * image + (1 - lam) * partner.

    Args:
        rng, images, labels, num_classes, lam, perm: see `Mixup`.
        alpha: ratios come from Beta(alpha, alpha).
        per: one ratio for all images of a call, as in the original, or one each.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from automix_jax import mixup
        >>> images, labels = jnp.ones((8, 32, 32, 3)), jnp.arange(8)
        >>> mixed = mixup(jax.random.key(0), images, labels, num_classes=10, alpha=0.2)
        >>> mixed.images.shape, mixed.targets.shape
        ((8, 32, 32, 3), (8, 10))
    """
    rng_lam, rng_perm = jax.random.split(rng)
    lam = lam_or_draw(rng_lam, lam, alpha, per, len(labels))
    perm = perm_or_draw(rng_perm, perm, len(labels))
    return paired(blend(images, perm, lam), labels, perm, lam, num_classes)


def blend(
    x: Float[Array, "b ..."], perm: Int[Array, " b"], lam: Float[Array, " n"]
) -> Float[Array, "b ..."]:
    """Returns lam * own + (1 - lam) * partner, lam [1] or [B], in the dtype of x."""
    lam = lam.reshape(-1, *[1] * (x.ndim - 1))
    return (lam * x + (1 - lam) * x[perm]).astype(x.dtype)
