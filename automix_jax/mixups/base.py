"""The contract of the plain mixups."""

from typing import Any, Protocol, runtime_checkable

import flax.struct
from jaxtyping import Array, Float, Int, PRNGKeyArray


@flax.struct.dataclass
class Mixed:
    """A mixed batch.

    `info` holds what the method decided: `lam` [B], the weight of the own label, `perm` [B], the
    partners, and, for methods that cut or mask, `mask` [B, H, W, 1], the weight of the own image.
    """

    images: Any  # [B, H, W, C]; `Any`, since JAX rebuilds trees with other things than arrays
    targets: Any  # [B, K]
    info: dict[str, Any]


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
        lam: Float[Array, ""] | float | None = None,
        perm: Int[Array, " b"] | None = None,
    ) -> Mixed:
        """Mixes a batch.

        Args:
            rng: of the method's draws.
            images: normalised images.
            labels: their classes.
            num_classes: length of the soft targets.
            lam: ratio to use in the place of the drawn one.
            perm: partners to use in the place of the drawn ones.
        """
        ...
