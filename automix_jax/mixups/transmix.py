"""TransMix: CutMix whose labels follow where a vision transformer looks."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PRNGKeyArray

from automix_jax.mixups.base import Lam, Mixed, Per
from automix_jax.mixups.grids import downsample
from automix_jax.mixups.switch import mixup_cutmix


def transmix(
    rng: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    *,
    num_classes: int,
    alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    switch_prob: float = 0.8,
    per: Per = "batch",
    lam: Lam | None = None,
    perm: Int[Array, " b"] | None = None,
) -> Mixed:
    """TransMix (Chen et al., 2022): the label's weight is the mean of area and attention.

    The attention is the class token's on the patches of the mixed image, in the last block;
    `Mixed.retarget` turns it into the targets after the forward pass, without a gradient. `targets`
    and `info["lam"]` are those of the area alone. A share of the calls is plain MixUp.

    Args:
        rng, images, labels, num_classes, lam, perm: see `Mixup`.
        alpha: of MixUp's ratios, Beta(alpha, alpha).
        cutmix_alpha: of CutMix's.
        switch_prob: share of CutMix.
        per: one ratio and box for all images of a call, as in the original, or one each.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from automix_jax import create_model, mixups
        >>> images, labels = jnp.ones((4, 32, 32, 3)), jnp.arange(4)
        >>> model = create_model("deit_t", num_classes=10, blocks=2, width=24)
        >>> variables = jax.jit(model.init)(jax.random.key(0), images)
        >>> mixed = mixups.transmix(jax.random.key(1), images, labels, num_classes=10)
        >>> logits, features = jax.jit(model.apply)(variables, mixed.images)
        >>> mixed.retarget(features["attention"]).shape
        (4, 10)
    """
    mixed = mixup_cutmix(
        rng,
        images,
        labels,
        num_classes=num_classes,
        alpha=alpha,
        cutmix_alpha=cutmix_alpha,
        switch_prob=switch_prob,
        partner="random",
        per=per,
        lam=lam,
        perm=perm,
    )
    own, partners = (
        jax.nn.one_hot(classes, num_classes) for classes in (labels, labels[mixed.info["perm"]])
    )
    mask, area = mixed.info["mask"][..., 0], mixed.info["lam"]
    retarget = Partial(_retarget, own, partners, mask, area, mixed.info["cut"])
    return mixed.replace(retarget=retarget)  # type: ignore[attr-defined]


def _retarget(own, partners, mask, area, cut, attention):
    lam = jnp.where(cut, (area + attended(mask, attention)) / 2, area)[:, None]
    return jax.lax.stop_gradient(lam * own + (1 - lam) * partners)


def attended(
    mask: Float[Array, "b h w"], attention: Float[Array, "b rows columns 1"]
) -> Float[Array, " b"]:
    """The share of the attention that falls on patches whose first pixel is the own image's.

    Args:
        mask: 1 where the own image shows, 0 elsewhere.
        attention: on the patches, at least 0.
    """
    attention = attention[..., 0].astype(jnp.float32)
    shown = downsample(mask, attention.shape[1:])
    return (attention * shown).sum((1, 2)) / attention.sum((1, 2))
