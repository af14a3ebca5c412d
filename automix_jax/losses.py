"""Classification losses, in at least float32."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def mix_labels(
    labels: Int[Array, " b"],
    partners: Int[Array, " b"],
    lam: Float[Array, ""] | Float[Array, " b"],
    num_classes: int,
) -> Float[Array, "b k"]:
    """Returns the soft targets lam * onehot(labels) + (1 - lam) * onehot(partners).

    Examples:
        >>> import jax.numpy as jnp
        >>> from automix_jax.losses import mix_labels
        >>> mix_labels(jnp.array([0]), jnp.array([2]), jnp.array(0.75), 3).tolist()
        [[0.75, 0.0, 0.25]]
    """
    lam = jnp.broadcast_to(lam, labels.shape)[:, None]
    own = jax.nn.one_hot(labels, num_classes, dtype=lam.dtype)
    other = jax.nn.one_hot(partners, num_classes, dtype=lam.dtype)
    return lam * own + (1 - lam) * other


def cross_entropy(logits: Float[Array, "b k"], labels: Int[Array, " b"]) -> Float[Array, ""]:
    """Returns the mean cross entropy against integer labels (Eq. 1).

    Examples:
        >>> import jax.numpy as jnp
        >>> from automix_jax.losses import cross_entropy
        >>> round(float(cross_entropy(jnp.zeros((5, 4)), jnp.arange(5) % 4)), 4)  # log 4
        1.3863
    """
    return optax.softmax_cross_entropy_with_integer_labels(_widen(logits), labels).mean()


def soft_cross_entropy(
    logits: Float[Array, "b k"], targets: Float[Array, "b k"]
) -> Float[Array, ""]:
    """Returns the mean cross entropy against soft targets; with `mix_labels` this is Eq. 2.

    Examples:
        >>> import jax.numpy as jnp
        >>> from automix_jax.losses import soft_cross_entropy
        >>> targets = jnp.array([[0.75, 0.25]])
        >>> round(float(soft_cross_entropy(jnp.log(targets), targets)), 4)  # its floor: the entropy
        0.5623
    """
    return optax.softmax_cross_entropy(_widen(logits), targets).mean()


def binary_cross_entropy(
    logits: Float[Array, "b k"], targets: Float[Array, "b k"]
) -> Float[Array, ""]:
    """Returns the binary cross entropy of each class against soft targets, as in OpenMixup.

    It is summed over the classes and averaged over the images; timm and PyTorch average over the
    classes too, which is K times less.
    """
    return optax.sigmoid_binary_cross_entropy(_widen(logits), targets).sum(-1).mean()


@dataclasses.dataclass(frozen=True)
class Classification:
    """The loss with which a recipe trains classifiers, on clean images and on mixed ones.

    Attributes:
        name: "ce", softmax cross entropy, or "bce", `binary_cross_entropy`.
        smoothing: the share eps of the target that is spread over all K classes: targets become
            (1 - eps) targets + eps / K. Of mixed labels this is the mix of the smoothed labels.
    """

    name: Literal["ce", "bce"] = "ce"
    smoothing: float = 0.0

    def __call__(
        self, logits: Float[Array, "b k"], targets: Int[Array, " b"] | Float[Array, "b k"]
    ) -> Float[Array, ""]:
        """Returns the mean loss against integer labels or soft targets."""
        labels = targets.ndim == 1
        if labels and self == CROSS_ENTROPY:
            return cross_entropy(logits, targets)
        if labels:
            targets = jax.nn.one_hot(targets, logits.shape[1], dtype=_widen(logits).dtype)
        if self.smoothing:
            targets = optax.smooth_labels(targets, self.smoothing)
        loss = soft_cross_entropy if self.name == "ce" else binary_cross_entropy
        return loss(logits, targets)


CROSS_ENTROPY = Classification()


def jsd(logits: Float[Array, "n b k"]) -> Float[Array, ""]:
    """Returns the Jensen-Shannon divergence among n predictions of an image, the mean over images.

    As in AugMix (Hendrycks et al., 2020), whose mean prediction is clamped to [1e-7, 1].
    """
    log_probs = jax.nn.log_softmax(_widen(logits))
    probs = jnp.exp(log_probs)
    log_mean = jnp.log(jnp.clip(probs.mean(0), 1e-7, 1))
    return (probs * (log_probs - log_mean)).sum(-1).mean()


def _widen(logits: Array) -> Array:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
