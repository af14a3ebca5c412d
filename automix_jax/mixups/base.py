"""The contract of the mixups, and what most of them have in common."""

from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from automix_jax.errors import ConfigError
from automix_jax.losses import mix_labels
from automix_jax.mixblock import mix_images

Lam = Float[Array, ""] | Float[Array, " b"] | float
Per = Literal["batch", "sample"]  # one draw for all images of a call, or one each
Variant = Literal["paper", "published"]  # what the method's paper says, or what made the tables


@flax.struct.dataclass
class Mixed:
    """A mixed batch.

    Attributes:
        images: [B, H, W, C], for the network.
        targets: [B, K], soft targets.
        info: what the method decided: `lam` [B], the weight of the own label, `perm` [B], the
            partners, and, for methods that cut or mask, `mask` [B, H, W, 1], the weight of the own
            image.
        transform: for a method that mixes inside the network, a function of a feature map's name
            and the activations [B, ...] there; `Backbone` takes it. None for the others.
        retarget: for a method whose targets follow the network's attention, a function from
            `features["attention"]` [B, h, w, 1] to targets. None for the others.

    The functions are pytrees (`jax.tree_util.Partial`): they pass through `jit` and `vmap`.
    """

    images: Any  # `Any`, since JAX rebuilds trees with other things than arrays
    targets: Any
    info: dict[str, Any]
    transform: Any = None
    retarget: Any = None


@runtime_checkable
class Mixup(Protocol):
    """A mixup: a pure function of a key and a batch, jittable, without state."""

    def __call__(
        self,
        rng: PRNGKeyArray,
        images: Float[Array, "b h w c"],
        labels: Int[Array, " b"],
        *,
        num_classes: int,
        lam: Lam | None = None,
        perm: Int[Array, " b"] | None = None,
    ) -> Mixed:
        """Mixes a batch.

        Args:
            rng: of the method's draws.
            images: normalised images.
            labels: their classes.
            num_classes: length of the soft targets.
            lam: ratio to use in the place of the drawn one, one for all or one each.
            perm: partners to use in the place of the drawn ones.

        A method that looks at more than the batch takes it as further keywords; `needs` in
        `automix_jax.mixups` names it.
        """
        ...


T = TypeVar("T")


def required(value: T | None, message: str) -> T:
    """The value of a keyword that a method cannot do without.

    Raises:
        ConfigError: with the message, if it was not given.
    """
    if value is None:
        raise ConfigError(message)
    return value


def paired(
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    perm: Int[Array, " b"],
    lam: Lam | Float[Array, " 1"],
    num_classes: int,
    **info: Any,
) -> Mixed:
    """The result of a method with one partner an image, from its mixed images and ratio."""
    lam = jnp.broadcast_to(jnp.asarray(lam, jnp.float32), labels.shape)
    targets = mix_labels(labels, labels[perm], lam, num_classes)
    return Mixed(images, targets, {"lam": lam, "perm": perm, **info})


def masked(
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    perm: Int[Array, " b"],
    mask: Float[Array, "n h w 1"],
    num_classes: int,
    *,
    lam: Lam | Float[Array, " 1"] | None = None,
    partners: Float[Array, "b h w c"] | None = None,
) -> Mixed:
    """The result of a method that shows the own image where its mask is 1.

    Args:
        images: a batch.
        labels: their classes.
        perm: the partners.
        mask: weight of the own image, one for all (n = 1) or one each (n = b).
        num_classes: length of the soft targets.
        lam: weight of the own label; the mask's mean where it is None.
        partners: shown where the mask is 0, in the place of `images[perm]`.
    """
    lam = mask.mean((1, 2, 3)) if lam is None else lam
    if partners is None:
        mixed = mix_images(images, mask, perm)
    else:
        mixed = (mask * images + (1 - mask) * partners).astype(images.dtype)
    mask = jnp.broadcast_to(mask, (*images.shape[:3], 1))
    return paired(mixed, labels, perm, lam, num_classes, mask=mask)
