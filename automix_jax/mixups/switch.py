"""MixUp or CutMix by the throw of a coin, as in timm and in the DeiT and RSB recipes."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from automix_jax.mixups.base import Lam, Mixed, masked
from automix_jax.mixups.boxes import box_around, outside, random_centre
from automix_jax.mixups.sampling import sample_lam, sample_perm


def mixup_cutmix(
    rng: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    *,
    num_classes: int,
    alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    switch_prob: float = 0.5,
    smoothing: float = 0.0,
    partner: Literal["reversed", "random"] = "reversed",
    per: Literal["batch", "pair", "sample"] = "batch",
    lam: Lam | None = None,
    perm: Int[Array, " b"] | None = None,
) -> Mixed:
    """MixUp or CutMix, as timm's `Mixup` switches between them (Wightman, 2019).

    Args:
        rng, images, labels, num_classes, lam, perm: see `Mixup`.
        alpha: of MixUp's ratios, Beta(alpha, alpha); DeiT has 0.8, RSB 0.1.
        cutmix_alpha: of CutMix's.
        switch_prob: chance of CutMix.
        smoothing: of the labels, before they are mixed.
        partner: image i meets image B - 1 - i, as in timm, or a random one.
        per: one coin, ratio and box for all images of a call, one for each image i together with
            image B - 1 - i, or one each: timm's "batch", "pair" and "elem".

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from automix_jax import mixups
        >>> images, labels = jnp.ones((8, 32, 32, 3)), jnp.arange(8)
        >>> mix = mixups.create("mixup_cutmix", alpha=0.1, per="pair")
        >>> mix(jax.random.key(0), images, labels, num_classes=10).info["perm"].tolist()
        [7, 6, 5, 4, 3, 2, 1, 0]
    """
    batch, size = len(labels), images.shape[1:3]
    rng_coin, rng_mixup, rng_cutmix, rng_centre, rng_perm = jax.random.split(rng, 5)
    first = jnp.arange(batch)  # whose draws image i takes
    if per != "sample":
        first = jnp.minimum(first, first[::-1]) if per == "pair" else jnp.zeros(1, int)
    count = 1 if per == "batch" else batch
    cut = jax.random.bernoulli(rng_coin, switch_prob, (count,))[first]
    if lam is None:
        blended = sample_lam(rng_mixup, alpha, (count,))[first]
        kept = sample_lam(rng_cutmix, cutmix_alpha, (count,))[first]
    else:
        blended = kept = jnp.atleast_1d(jnp.asarray(lam, jnp.float32))
    row, column = random_centre(rng_centre, count, size)
    box = outside(box_around((row[first], column[first]), jnp.sqrt(1 - kept), size), size)
    mask = jnp.where(cut[:, None, None, None], box, blended[:, None, None, None])
    if perm is None:
        reverse = jnp.arange(batch)[::-1]
        perm = reverse if partner == "reversed" else sample_perm(rng_perm, batch)
    weight = jnp.where(cut, box.mean((1, 2, 3)), blended)
    mixed = masked(images, labels, perm, mask, num_classes, lam=weight)
    info = {**mixed.info, "cut": jnp.broadcast_to(cut, labels.shape)}
    return mixed.replace(  # type: ignore[attr-defined]
        targets=optax.smooth_labels(mixed.targets, smoothing), info=info
    )
