"""AttentiveMix+: the cells of the own image that a pretrained network looks at stay."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from automix_jax.mixups.base import Lam, Mixed, Per, Variant, masked, required
from automix_jax.mixups.grids import upsample
from automix_jax.mixups.sampling import lam_or_draw, perm_or_draw


def attentivemix(
    rng: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    *,
    num_classes: int,
    attention: Float[Array, "b rows columns"] | None = None,
    alpha: float = 2.0,
    per: Per = "batch",
    variant: Variant = "paper",
    lam: Lam | None = None,
    perm: Int[Array, " b"] | None = None,
) -> Mixed:
    """AttentiveMix+ (after Walawalkar et al., 2020): keeps the share lam of most attended cells.

    Args:
        rng, images, labels, num_classes, lam, perm: see `Mixup`.
        attention: of a pretrained network on the cells of each image: its last feature map's mean
            over channels. `automix_jax.Guide` computes it.
        alpha: ratios come from Beta(alpha, alpha), whatever the authors' documentation says of
            Beta(alpha, 8).
        per: one number of cells for all images of a call, as in the original, or one each.
        variant: "published" gives all labels the weight of the first image's mask. The masks differ
            in size where the cells do, at sides that they do not divide.

    Raises:
        ConfigError: without attention.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from automix_jax import create_model, mixups
        >>> images, labels = jnp.ones((4, 32, 32, 3)), jnp.arange(4)
        >>> model = create_model("resnet8", stem="cifar")  # in earnest, a pretrained one
        >>> variables = jax.jit(model.init)(jax.random.key(0), images)
        >>> _, features = jax.jit(model.apply)(variables, images)
        >>> mix = mixups.create("attentivemix")
        >>> attention = features["stage3"].mean(-1)
        >>> mix(jax.random.key(1), images, labels, num_classes=10, attention=attention).images.shape
        (4, 32, 32, 3)
    """
    attention = required(
        attention, "attentivemix needs attention=, a pretrained network's: see automix_jax.Guide."
    )
    rng_lam, rng_perm = jax.random.split(rng)
    lam = lam_or_draw(rng_lam, lam, alpha, per, len(labels))
    perm = perm_or_draw(rng_perm, perm, len(labels))
    mask = upsample(top_cells(attention, lam), images.shape[1:3])[..., None]
    weight = mask.mean((1, 2, 3))
    weight = weight[:1] if variant == "published" else weight
    return masked(images, labels, perm, mask, num_classes, lam=weight)


def top_cells(
    attention: Float[Array, "b rows columns"], lam: Float[Array, " n"]
) -> Float[Array, "b rows columns"]:
    """1 on the share lam of the cells with the highest attention, at least one cell; else 0."""
    flat = attention.reshape(attention.shape[0], -1)
    cells = flat.shape[1]
    kept = jnp.clip(jnp.floor(cells * lam), 1, cells)  # [n]
    rank = jnp.argsort(jnp.argsort(-flat, axis=1), axis=1)
    return (rank < kept[:, None]).astype(jnp.float32).reshape(attention.shape)
