"""No mixing at all, and MixUp: whole images blended."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from automix_jax.losses import mix_labels
from automix_jax.mixups.base import Mixed
from automix_jax.mixups.sampling import sample_lam, sample_perm


def vanilla(
    rng: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    *,
    num_classes: int,
    lam: Float[Array, ""] | float | None = None,
    perm: Int[Array, " b"] | None = None,
) -> Mixed:
    """Leaves the images alone; the targets are one-hot and a given ratio or pairing is not used."""
    del rng, lam, perm
    info = {"lam": jnp.ones(len(labels)), "perm": jnp.arange(len(labels))}
    return Mixed(images, jax.nn.one_hot(labels, num_classes), info)


def mixup(
    rng: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    *,
    num_classes: int,
    alpha: float = 1.0,
    lam: Float[Array, ""] | float | None = None,
    perm: Int[Array, " b"] | None = None,
) -> Mixed:
    """MixUp (Zhang et al., 2018): every image becomes lam * image + (1 - lam) * partner.

    One ratio from Beta(alpha, alpha) for all images of a call, as in the original. For the other
    arguments see `Mixup`.
    """
    rng_lam, rng_perm = jax.random.split(rng)
    lam = jnp.asarray(sample_lam(rng_lam, alpha) if lam is None else lam)
    perm = sample_perm(rng_perm, len(labels)) if perm is None else perm
    mixed = (lam * images + (1 - lam) * images[perm]).astype(images.dtype)
    info = {"lam": jnp.broadcast_to(lam, labels.shape), "perm": perm}
    return Mixed(mixed, mix_labels(labels, labels[perm], lam, num_classes), info)
