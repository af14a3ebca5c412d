"""Manifold Mixup: MixUp of the images or of a feature map inside the network."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PRNGKeyArray

from automix_jax.mixups.base import Lam, Mixed, Per, paired
from automix_jax.mixups.blend import blend
from automix_jax.mixups.sampling import lam_or_draw, perm_or_draw


def manifoldmix(
    rng: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    *,
    num_classes: int,
    alpha: float = 2.0,
    layers: tuple[str, ...] = ("input", "stage1", "stage2"),
    per: Per = "batch",
    lam: Lam | None = None,
    perm: Int[Array, " b"] | None = None,
) -> Mixed:
    """Manifold Mixup (Verma et al., 2019): blends at a place that is drawn for each call.

    The images come back mixed or as they were; `Mixed.transform` does the rest inside the network.
    Gradients reach both images of a pair.

    Args:
        rng, images, labels, num_classes, lam, perm: see `Mixup`.
        alpha: ratios come from Beta(alpha, alpha).
        layers: the places to draw from: "input" or names of feature maps.
        per: one ratio for all images of a call, as in the original, or one each.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from automix_jax import create_model, mixups
        >>> images, labels = jnp.ones((4, 16, 16, 3)), jnp.arange(4)
        >>> model = create_model("resnet8", num_classes=10, stem="cifar")
        >>> variables = model.init(jax.random.key(0), images)
        >>> mixed = mixups.manifoldmix(jax.random.key(1), images, labels, num_classes=10)
        >>> logits, _ = model.apply(variables, mixed.images, transform=mixed.transform)
        >>> logits.shape, mixed.targets.shape
        ((4, 10), (4, 10))
    """
    rng_lam, rng_perm, rng_layer = jax.random.split(rng, 3)
    lam = lam_or_draw(rng_lam, lam, alpha, per, len(labels))
    perm = perm_or_draw(rng_perm, perm, len(labels))
    chosen = jax.random.randint(rng_layer, (), 0, len(layers))
    weights = {layer: jnp.where(chosen == i, lam, 1) for i, layer in enumerate(layers)}
    if "input" in weights:
        images = blend(images, perm, weights.pop("input"))
    mixed = paired(images, labels, perm, lam, num_classes, layer=chosen)
    return mixed.replace(transform=Partial(_blend_at, weights, perm))  # type: ignore[attr-defined]


def _blend_at(
    weights: dict[str, Float[Array, " n"]], perm: Int[Array, " b"], name: str, x: Array
) -> Array:
    return blend(x, perm, weights[name]) if name in weights else x
