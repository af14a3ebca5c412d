"""No mixing at all, and MixUp: whole images blended."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from automix_jax.losses import mix_labels
from automix_jax.mixups.base import Mixed
from automix_jax.mixups.sampling import sample_lam, sample_perm


@dataclasses.dataclass(frozen=True)
class Vanilla:
    """Leaves the images alone; the targets are one-hot."""

    def __call__(
        self,
        rng: PRNGKeyArray,
        images: Float[Array, "b h w c"],
        labels: Int[Array, " b"],
        *,
        num_classes: int,
        lam: Float[Array, ""] | float | None = None,
        perm: Int[Array, " b"] | None = None,
    ) -> Mixed:
        """Returns the batch as it is; a given ratio or pairing has no effect."""
        del rng, lam, perm
        own = jnp.arange(len(labels))
        info = {"lam": jnp.ones(len(labels)), "perm": own}
        return Mixed(images, jax.nn.one_hot(labels, num_classes), info)


@dataclasses.dataclass(frozen=True)
class MixUp:
    """MixUp (Zhang et al., 2018): lam * image + (1 - lam) * partner, lam from Beta(alpha, alpha).

    One ratio for all images of a call, as in the original.
    """

    alpha: float = 1.0

    def __call__(
        self,
        rng: PRNGKeyArray,
        images: Float[Array, "b h w c"],
        labels: Int[Array, " b"],
        *,
        num_classes: int,
        lam: Float[Array, ""] | float | None = None,
        perm: Int[Array, " b"] | None = None,
    ) -> Mixed:
        """Blends every image with its partner; see `Mixup`."""
        rng_lam, rng_perm = jax.random.split(rng)
        lam = jnp.asarray(sample_lam(rng_lam, self.alpha) if lam is None else lam)
        perm = sample_perm(rng_perm, len(labels)) if perm is None else perm
        mixed = (lam * images + (1 - lam) * images[perm]).astype(images.dtype)
        info = {"lam": jnp.broadcast_to(lam, labels.shape), "perm": perm}
        return Mixed(mixed, mix_labels(labels, labels[perm], lam, num_classes), info)
