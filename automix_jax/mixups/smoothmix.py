"""SmoothMix: a soft round spot of the partner."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from automix_jax.mixups.base import Lam, Mixed, Per, Variant, masked
from automix_jax.mixups.boxes import random_centre
from automix_jax.mixups.fmix import bisected
from automix_jax.mixups.sampling import draws, perm_or_draw

_WIDTH = (0.25, 0.5)  # of the spot: its standard deviation by the image's height


def smoothmix(
    rng: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    *,
    num_classes: int,
    per: Per = "batch",
    variant: Variant = "paper",
    lam: Lam | None = None,
    perm: Int[Array, " b"] | None = None,
) -> Mixed:
    """SmoothMix (Lee et al., 2020): the partner shows through a Gaussian spot, centred anywhere.

    The spot's width is drawn, a part of 1/4 to 1/2 of the image's height. The weight of the own
    label is the mean weight of the own image.

    Args:
        rng, images, labels, num_classes, perm: see `Mixup`.
        per: one spot for all images of a call, as in the original, or one each.
        variant: OpenMixup's ("published") swaps the two weights of the labels, but not those of
            the images.
        lam: weight of the own label; the spot gets the width that gives it, in the place of the
            drawn one.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from automix_jax.mixups.smoothmix import smoothmix
        >>> images, labels = jnp.ones((8, 32, 32, 3)), jnp.arange(8)
        >>> mixed = smoothmix(jax.random.key(0), images, labels, num_classes=10, lam=0.7)
        >>> round(float(mixed.info["mask"][0].mean()), 4)
        0.7
    """
    rng_width, rng_perm, rng_centre = jax.random.split(rng, 3)
    count, size = draws(per, len(labels)), images.shape[1:3]
    perm = perm_or_draw(rng_perm, perm, len(labels))
    distances = _squared_distances(random_centre(rng_centre, count, size), size)
    if lam is None:
        width = size[0] * jax.random.uniform(rng_width, (count,), jnp.float32, *_WIDTH)
    else:
        lam = jnp.atleast_1d(jnp.asarray(lam, jnp.float32))
        width = width_for(lam if variant == "published" else 1 - lam, distances)
    rows, columns = _profiles(width, distances)
    mask = 1 - (rows[:, :, None] * columns[:, None, :])[..., None]
    share = mask.mean((1, 2, 3))
    lam = 1 - share if variant == "published" else share
    return masked(images, labels, perm, mask, num_classes, lam=lam)


Distances = tuple[Float[Array, "_ h"], Float[Array, "_ w"]]


def width_for(share: Float[Array, " m"], distances: Distances) -> Float[Array, " _"]:
    """The standard deviations of spots whose mean over the image is `share`.

    The mean grows with the width. Its logarithm is bisected, from where float32 makes every weight
    0 to where it makes every weight 1; shares of 0 and 1 are met exactly.
    """

    def small_enough(exponent: Float[Array, " _"]) -> Bool[Array, " _"]:
        rows, columns = _profiles(jnp.exp2(exponent), distances)
        return rows.mean(1) * columns.mean(1) <= share

    return jnp.exp2(bisected(small_enough, jnp.full(1, -5.0), jnp.full(1, 24.0)))


def _squared_distances(
    centre: tuple[Int[Array, " n"], Int[Array, " n"]], size: tuple[int, ...]
) -> Distances:
    """Along rows and columns; a centre lies between pixels, so that none is at distance 0."""
    row, column = (
        jnp.square(jnp.arange(side) - middle[:, None] + 0.5)
        for side, middle in zip(size, centre, strict=True)
    )
    return row, column


def _profiles(width: Float[Array, " m"], distances: Distances) -> Distances:
    """The Gaussians along rows and columns, whose product is the spot."""
    rows, columns = (jnp.exp(-squared / (2 * jnp.square(width[:, None]))) for squared in distances)
    return rows, columns
