"""AugMix: no partner, an image is mixed with augmented versions of itself."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from automix_jax.mixups.base import Lam, Mixed, paired
from automix_jax.mixups.pixel_ops import IDENTITY, OPS, apply_ops
from automix_jax.mixups.pixels import from_unit, to_uint8

_DEEPEST = 3  # the longest chain where the depth is drawn


def augmix(
    rng: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    *,
    num_classes: int,
    severity: float = 3.0,
    width: int = 3,
    depth: int = -1,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.5,),
    lam: Lam | None = None,
    perm: Int[Array, " b"] | None = None,
) -> Mixed:
    """AugMix (Hendrycks et al., 2020): an image is mixed with augmented versions of itself.

    An image x becomes lam * x + (1 - lam) * (w_1 * x_1 + ... + w_n * x_n), where each x_i went
    through a chain of random operations as bytes (`pixel_ops.OPS`), w comes from
    Dirichlet(1, ..., 1) and lam from Beta(1, 1), for every image. It stays of its class: targets
    are one-hot, `info["lam"]` is 1, and `info["clean"]` holds the lam above.

    The paper trains on the images and two such versions of them, with `jsd` of `automix_jax.losses`
    among the three predictions.

    Args:
        rng, images, labels, num_classes, lam, perm: see `Mixup`. A given lam is the weight of the
            clean image; perm is not used.
        severity: strengths of the operations come from U(0.1, severity), of at most 10. The authors
            take 3 on CIFAR and 1 on ImageNet.
        width: number of chains.
        depth: operations in a chain; -1 draws 1, 2 or 3 for each.
        mean: that the images were normalised with, for all channels or one each.
        std: likewise.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from automix_jax.mixups.augmix import augmix
        >>> images, labels = jnp.zeros((8, 32, 32, 3)), jnp.arange(8)
        >>> mixed = augmix(jax.random.key(0), images, labels, num_classes=10)
        >>> mixed.images.shape, mixed.info["clean"].shape
        ((8, 32, 32, 3), (8,))
    """
    del perm
    count = len(labels)
    rng_chains, rng_weights, rng_lam = jax.random.split(rng, 3)
    pixels = to_uint8(images, mean, std)
    chains = augment(rng_chains, jnp.tile(pixels, (width, 1, 1, 1)), severity, depth)
    weights = jax.random.exponential(rng_weights, (width, count, 1, 1, 1))
    weights = weights / weights.sum(0)  # Dirichlet(1, ..., 1)
    # Normalising is affine and the weights sum to 1: once for all chains is enough.
    blended = (weights * (chains.reshape(width, *pixels.shape) / 255)).sum(0)
    augmented = from_unit(blended, mean, std)
    lam = jax.random.uniform(rng_lam, (count,)) if lam is None else jnp.asarray(lam)
    clean = jnp.broadcast_to(lam, labels.shape)
    share = clean[:, None, None, None]
    mixed = (share * images + (1 - share) * augmented).astype(images.dtype)
    return paired(mixed, labels, jnp.arange(count), 1.0, num_classes, clean=clean)


def augment(
    rng: PRNGKeyArray, pixels: UInt8[Array, "n h w c"], severity: float, depth: int
) -> UInt8[Array, "n h w c"]:
    """Sends each image through a chain of operations of its own; see `augmix`."""
    rng_op, rng_level, rng_sign, rng_depth = jax.random.split(rng, 4)
    steps = depth if depth > 0 else _DEEPEST
    shape = (steps, len(pixels))
    op = jax.random.randint(rng_op, shape, 0, len(OPS))
    level = jax.random.uniform(rng_level, shape, minval=0.1, maxval=severity)
    sign = 1 - 2 * jax.random.bernoulli(rng_sign, shape=shape).astype(jnp.int32)
    if depth <= 0:
        length = jax.random.randint(rng_depth, shape[1:], 1, _DEEPEST + 1)
        op = jnp.where(jnp.arange(steps)[:, None] < length, op, IDENTITY)

    def step(pixels, drawn):
        return apply_ops(pixels, *drawn), None

    return jax.lax.scan(step, pixels, (op, level, sign))[0]
