"""CutMix: a rectangle of the partner pasted in."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from automix_jax.losses import mix_labels
from automix_jax.mixups.base import Mixed
from automix_jax.mixups.sampling import sample_lam, sample_perm


@dataclasses.dataclass(frozen=True)
class CutMix:
    """CutMix (Yun et al., 2019): one box, centred anywhere, holds the partner in every image.

    The box's sides are sqrt(1 - lam) of the image's, rounded down to even numbers and clipped at
    the borders; the label weight is then the share of the image that the box leaves.
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
        """Pastes the partner's box into every image; see `Mixup`."""
        height, width = images.shape[1:3]
        rng_lam, rng_perm, rng_row, rng_column = jax.random.split(rng, 4)
        lam = jnp.asarray(sample_lam(rng_lam, self.alpha) if lam is None else lam)
        perm = sample_perm(rng_perm, len(labels)) if perm is None else perm
        rows = _inside(rng_row, height, lam)[:, None]
        columns = _inside(rng_column, width, lam)[None, :]
        mask = 1.0 - (rows & columns)[None, :, :, None]  # [1, H, W, 1]
        mixed = jnp.where(mask > 0, images, images[perm])
        lam = mask.mean()
        info = {
            "lam": jnp.broadcast_to(lam, labels.shape),
            "perm": perm,
            "mask": jnp.broadcast_to(mask, (*images.shape[:3], 1)),
        }
        return Mixed(mixed, mix_labels(labels, labels[perm], lam, num_classes), info)


def _inside(rng: PRNGKeyArray, size: int, lam: Array) -> Array:
    """Which of `size` rows (or columns) the box covers: booleans [size]."""
    half = jnp.floor(size * jnp.sqrt(1 - lam)).astype(int) // 2
    centre = jax.random.randint(rng, (), 0, size)
    position = jnp.arange(size)
    return (position >= centre - half) & (position < centre + half)
