"""FMix: masks of any shape, cut from low-frequency noise."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from automix_jax.mixups.base import Lam, Mixed, Per, Variant, masked
from automix_jax.mixups.sampling import draws, lam_or_draw, perm_or_draw


def fmix(
    rng: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    *,
    num_classes: int,
    alpha: float = 1.0,
    decay: float = 3.0,
    per: Per = "batch",
    variant: Variant = "paper",
    lam: Lam | None = None,
    perm: Int[Array, " b"] | None = None,
) -> Mixed:
    """FMix (Harris et al., 2020): the own image shows where smooth noise is largest.

    The mask covers a share lam of the image, up to one pixel; the label's weight is lam itself.

    Args:
        rng, images, labels, num_classes, lam, perm: see `Mixup`.
        alpha: ratios come from Beta(alpha, alpha).
        decay: power of the frequency by which the noise's amplitude falls; larger is smoother.
        per: one ratio and mask for all images of a call, as in the original, or one each.
        variant: "published" has the spectrum of the authors' code, see `low_frequency_noise`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from automix_jax.mixups.fmix import fmix
        >>> images, labels = jnp.ones((8, 32, 32, 3)), jnp.arange(8)
        >>> mixed = fmix(jax.random.key(0), images, labels, num_classes=10, lam=0.25)
        >>> float(mixed.info["mask"][0].mean())
        0.25
    """
    rng_lam, rng_perm, rng_noise, rng_count = jax.random.split(rng, 4)
    count, (height, width) = draws(per, len(labels)), images.shape[1:3]
    lam = lam_or_draw(rng_lam, lam, alpha, per, len(labels))
    perm = perm_or_draw(rng_perm, perm, len(labels))
    noise = jax.random.normal(rng_noise, (count, height, width // 2 + 1, 2))
    smooth = low_frequency_noise(noise, width, decay, variant)
    up = jax.random.bernoulli(rng_count, shape=(count,))
    pixels = lam * (height * width)
    mask = largest(smooth, jnp.where(up, jnp.ceil(pixels), jnp.floor(pixels)))
    return masked(images, labels, perm, mask, num_classes, lam=lam)


def low_frequency_noise(
    noise: Float[Array, "n h f 2"], width: int, decay: float, variant: Variant = "paper"
) -> Float[Array, "n h {width}"]:
    """Real images from white noise in half of their spectra, f = width // 2 + 1.

    Amplitudes fall as a power of the frequency, and below one wave an image no further. The
    authors' code ("published") takes the first two rows of the spectrum, in the place of the real
    and the imaginary parts, for the parts of all, so that no more than one wave fits in a row.
    """
    height = noise.shape[1]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))  # [H, f]
    scale = np.maximum(frequency, 1 / max(height, width)) ** -decay
    parts = noise * scale[..., None]
    if variant == "published":
        spectrum = jax.lax.complex(parts[:, 0], parts[:, 1])  # [n, f, 2]
    else:
        spectrum = jax.lax.complex(parts[..., 0], parts[..., 1])  # [n, H, f]
    # Written with the whole transform, since the backends differ in what the half one makes of
    # columns that are not those of a real image: 0 and W / 2, which are here once, others twice.
    column = np.arange(spectrum.shape[2])
    twice = np.where((column == 0) | (2 * column == width), 1.0, 2.0)
    return jnp.fft.ifft2(spectrum * twice, (height, width)).real


def largest(values: Float[Array, "n h w"], count: Float[Array, " m"]) -> Float[Array, "_ h w 1"]:
    """A mask of `count` ones, on the largest values; n, m or neither is 1.

    The threshold is bisected: many times faster than sorting.
    """

    def enough(threshold: Float[Array, " _"]) -> Bool[Array, " _"]:
        return (values >= threshold[:, None, None]).sum((1, 2)) >= count

    least, most = values.min((1, 2)), values.max((1, 2))
    threshold = bisected(enough, least, 2 * most - least)
    return (values >= threshold[:, None, None]).astype(jnp.float32)[..., None]


def bisected(
    holds: Callable[[Float[Array, " _"]], Bool[Array, " _"]],
    low: Float[Array, " n"],
    high: Float[Array, " n"],
) -> Float[Array, " _"]:
    """The largest points where a condition holds that holds at `low` and not at `high`.

    As exact as float32 gets: the distance of the ends is halved 32 times.
    """

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        there = holds(middle)
        return jnp.where(there, middle, low), jnp.where(there, high, middle)

    ends = halve(0, (low, high))  # before the loop, since it gives them the condition's shape
    return jax.lax.fori_loop(1, 32, halve, ends)[0]
