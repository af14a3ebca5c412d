"""Layers that the backbones share: batch norm by groups, and PyTorch's padding."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

# He et al. (2015) as PyTorch's kaiming_normal_(mode="fan_out"): an untruncated normal.
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class BatchNorm(nn.Module):
    """Batch norm over the last axis whose statistics are taken within groups of the batch.

    A batch [B, ...] is read as [groups, B / groups, ...]. In training each group is normalised by
    its own mean and variance, as data-parallel PyTorch does on each GPU, but on any number of
    devices; the running statistics follow the mean over groups. Statistics are at least float32
    and the variance is taken in two passes, so that a large mean does not swamp it.

    Attributes:
        groups: how many groups the batch is read as.
        momentum: share of the running statistics that a step keeps (PyTorch's is one minus this).
        epsilon: added to the variance.
        unbiased: whether the running variance is the unbiased estimate, as in PyTorch; the batch
            is always normalised by the biased one.
        scale_init: of the scale; zeros for the last norm of a residual branch.
        dtype: of the output; the inputs' when None.
    """

    groups: int = 1
    momentum: float = 0.9
    epsilon: float = 1e-5
    unbiased: bool = False
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b ... c"], *, train: bool) -> Float[Array, "b ... c"]:
        """Returns x normalised, scaled and shifted; in training updates "batch_stats".

        Raises:
            ValueError: if the batch does not split into the groups.
        """
        channels = x.shape[-1:]
        scale = self.param("scale", self.scale_init, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)

        out_dtype = self.dtype or x.dtype
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if not train:
            mean, var = running_mean.value, running_var.value
            return ((wide - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias).astype(
                out_dtype
            )

        if x.shape[0] % self.groups:
            raise ValueError(f"a batch of {x.shape[0]} does not split into {self.groups} groups.")
        # [G, B / G, ..., C]; merging the axes in between makes XLA's CPU backend 8 times slower.
        grouped = wide.reshape(self.groups, -1, *x.shape[1:])
        within = tuple(range(1, grouped.ndim - 1))
        mean = grouped.mean(within, keepdims=True)
        centred = grouped - mean
        var = jnp.square(centred).mean(within, keepdims=True)
        if not self.is_initializing():
            count = x.size // x.shape[-1] // self.groups
            correction = count / max(count - 1, 1) if self.unbiased else 1.0
            keep = self.momentum
            running_mean.value = keep * running_mean.value + (1 - keep) * _over_groups(mean)
            running_var.value = keep * running_var.value + (1 - keep) * correction * _over_groups(
                var
            )
        normalised = centred * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias
        return normalised.reshape(x.shape).astype(out_dtype)


def _over_groups(statistic: Array) -> Array:
    """The mean over groups [C] of a statistic [G, 1, ..., 1, C]."""
    return statistic.reshape(len(statistic), -1).mean(0)


def conv(
    features: int,
    kernel: int,
    stride: int = 1,
    *,
    groups: int = 1,
    dtype: Dtype | None = None,
    name: str | None = None,
) -> nn.Conv:
    """A square convolution without bias, padded by kernel // 2 on every side as in PyTorch."""
    return nn.Conv(
        features,
        (kernel, kernel),
        (stride, stride),
        padding=[(kernel // 2, kernel // 2)] * 2,
        feature_group_count=groups,
        use_bias=False,
        kernel_init=kaiming_normal,
        dtype=dtype,
        name=name,
    )


def linear_head(classes: int, name: str = "head") -> nn.Dense:
    """A linear classifier, initialised N(0, 0.01^2) and 0; its logits are at least float32."""
    return nn.Dense(classes, kernel_init=nn.initializers.normal(0.01), name=name)


def global_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
    """The mean over positions, at least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean((1, 2))


def max_pool(x: Float[Array, "b h w c"], size: int, stride: int) -> Float[Array, "b h2 w2 c"]:
    """Max pooling padded with minus infinity by size // 2 on every side, as in PyTorch."""
    return nn.max_pool(x, (size, size), (stride, stride), [(size // 2, size // 2)] * 2)
