"""AlignMix: features of two images aligned by optimal transport before they are blended."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from automix_jax.errors import ConfigError
from automix_jax.mixups.base import Lam, Mixed, Per, paired
from automix_jax.mixups.blend import blend
from automix_jax.mixups.sampling import lam_or_draw, perm_or_draw

_EPSILON = 0.1  # of the entropy that smooths the plan
_ITERATIONS = 100
_TOLERANCE = 0.1  # of the mean over the batch of the potentials' absolute change


def alignmix(
    rng: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    *,
    num_classes: int,
    alpha: float = 2.0,
    layer: str = "stage4",
    per: Per = "batch",
    lam: Lam | None = None,
    perm: Int[Array, " b"] | None = None,
) -> Mixed:
    """AlignMixup (Venkataramanan et al., 2022): plain MixUp, or a blend of aligned features.

    One or the other for a whole call, with equal chances. Aligned means that the partner's features
    are moved to the positions of the own ones that they resemble, or the own ones to the partner's,
    again with equal chances. `Mixed.transform` does it inside the network.

    Args:
        rng, images, labels, num_classes, lam, perm: see `Mixup`.
        alpha: ratios come from Beta(alpha, alpha).
        layer: the feature map that is aligned, the last one before pooling.
        per: one ratio for all images of a call, as in the original, or one each.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from automix_jax import create_model, mixups
        >>> images, labels = jnp.ones((4, 16, 16, 3)), jnp.arange(4)
        >>> model = create_model("resnet8", num_classes=10, stem="cifar")
        >>> variables = jax.jit(model.init)(jax.random.key(0), images)
        >>> mix = mixups.create("alignmix", layer="stage3")
        >>> mixed = mix(jax.random.key(1), images, labels, num_classes=10)
        >>> model.apply(variables, mixed.images, transform=mixed.transform)[0].shape
        (4, 10)
    """
    rng_lam, rng_perm, rng_input, rng_way = jax.random.split(rng, 4)
    lam = lam_or_draw(rng_lam, lam, alpha, per, len(labels))
    perm = perm_or_draw(rng_perm, perm, len(labels))
    at_input = jax.random.bernoulli(rng_input)
    images = blend(images, perm, jnp.where(at_input, lam, 1))
    mixed = paired(images, labels, perm, lam, num_classes, at_input=at_input)
    own_stays = jax.random.bernoulli(rng_way)
    how = {layer: (lam, ~at_input, own_stays)}
    return mixed.replace(transform=Partial(_blend_at, how, perm))  # type: ignore[attr-defined]


def _blend_at(
    how: dict[str, tuple[Float[Array, " n"], Bool[Array, ""], Bool[Array, ""]]],
    perm: Int[Array, " b"],
    name: str,
    x: Array,
) -> Array:
    if name not in how:
        return x
    if x.ndim != 4:
        raise ConfigError(
            f"alignmix aligns the positions of a feature map that is pooled afterwards, but {name}"
            f" holds the tokens of a transformer, {list(x.shape)}: use a convolutional network."
        )
    lam, active, own_stays = how[name]
    aligned = blend_aligned(x, x[perm], lam, own_stays)
    return jnp.where(active, aligned, x)


def blend_aligned(
    own: Float[Array, "b h w c"],
    partner: Float[Array, "b h w c"],
    lam: Float[Array, " n"],
    own_stays: Bool[Array, ""],
) -> Float[Array, "b h w c"]:
    """Blends two feature maps, one of them moved to the positions of the other.

    Args:
        own: feature maps.
        partner: those to blend in.
        lam: weight of the own ones, one for all or one each.
        own_stays: whether the partner's features move to the own ones' positions; otherwise the
            own ones move to the partner's.
    """
    a, b = (x.reshape(x.shape[0], -1, x.shape[-1]) for x in (own, partner))  # [B, n, C]
    plan = assignment(*jax.lax.stop_gradient((a, b))).astype(own.dtype)  # [B, n, n]
    plan, movable = jnp.where(own_stays, plan, plan.mT), jnp.where(own_stays, b, a)
    moved = jnp.einsum("bij,bjc->bic", plan, movable)
    a, b = jnp.where(own_stays, a, moved), jnp.where(own_stays, moved, b)
    lam = lam[:, None, None]
    return (lam * a + (1 - lam) * b).astype(own.dtype).reshape(own.shape)


def assignment(a: Float[Array, "b n c"], b: Float[Array, "b n c"]) -> Float[Array, "b n n"]:
    """Sinkhorn's transport plan between two sets of n vectors, times n: rows of a, columns of b.

    The cost is the squared distance; both marginals are uniform. In the log domain and float32,
    since costs exceed the smoothing by orders of magnitude. It ends with the iteration that changes
    the potentials by less than a tolerance, as in the original.
    """
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    # By differences, since squares of norms would cancel; the compiler stores no [B, n, n, C].
    cost = jnp.square(a[:, :, None] - b[:, None]).sum(-1)  # [B, n, n]
    log_marginal = jnp.log(1 / a.shape[1] + 1e-8)

    def scaled(u, v):
        return (u[:, :, None] + v[:, None, :] - cost) / _EPSILON

    def step(carry):
        u, v, _, count = carry
        new_u = _EPSILON * (log_marginal - jax.nn.logsumexp(scaled(u, v), axis=2)) + u
        v = _EPSILON * (log_marginal - jax.nn.logsumexp(scaled(new_u, v), axis=1)) + v
        return new_u, v, jnp.abs(new_u - u).sum(1).mean(), count + 1

    def unfinished(carry):
        return (carry[2] >= _TOLERANCE) & (carry[3] < _ITERATIONS)

    zeros = jnp.zeros(a.shape[:2])
    start = (zeros, zeros, jnp.asarray(jnp.inf, jnp.float32), 0)
    u, v, _, _ = jax.lax.while_loop(unfinished, step, start)
    return jnp.exp(scaled(u, v)) * a.shape[1]
