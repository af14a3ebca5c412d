"""Layers that the backbones share: PyTorch's padding, precision, and how weights start."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype
from jaxtyping import Array, Float

from automix_jax.models.cpu_conv import faster_conv

Init = Literal["paper", "torch_default"]
Initializer = nn.initializers.Initializer

# He et al. (2015) as PyTorch's kaiming_normal_(mode="fan_out"): an untruncated normal.
small_normal = nn.initializers.normal(0.01)
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class BatchNorm(nn.Module):
    """Batch norm over the last axis, with PyTorch's running variance on request.

    Statistics are at least float32, and the variance is taken in two passes, so that a large mean
    does not swamp it.

    Attributes:
        momentum: share of the running statistics that a step keeps (PyTorch's is one minus this).
        epsilon: added to the variance.
        unbiased: whether the running variance is the unbiased estimate, as in PyTorch; the batch
            is always normalised by the biased one.
        scale_init: of the scale; zeros for the last norm of a residual branch.
        dtype: of the output; the inputs' when None.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    unbiased: bool = False
    scale_init: Initializer = nn.initializers.ones
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b ... c"], *, train: bool) -> Float[Array, "b ... c"]:
        """Returns x normalised, scaled and shifted; in training updates "batch_stats"."""
        channels = x.shape[-1:]
        scale = self.param("scale", self.scale_init, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)

        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean, var = running_mean.value, running_var.value
        if train:
            axes = tuple(range(x.ndim - 1))
            mean = wide.mean(axes)
            var = jnp.square(wide - mean).mean(axes)
            if not self.is_initializing():
                count = x.size // x.shape[-1]
                correction = count / max(count - 1, 1) if self.unbiased else 1.0
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * correction * var
        normalised = (wide - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias
        return normalised.astype(self.dtype or x.dtype)


@dataclasses.dataclass(frozen=True)
class Layers:
    """What the layers of one network have in common; its methods make a layer and apply it.

    They are called inside a compact method, whose module the layer then belongs to.

    Attributes:
        dtype: of convolutions and matrix products.
        init: "paper" starts as the paper's networks did; "torch_default" leaves PyTorch's layer
            defaults: kernels and biases uniform within 1 / sqrt(fan-in), all scales one.
        kernel_init: of kernels in "paper".
        head_init: of classifiers in "paper".
        bn_momentum, bn_epsilon, bn_unbiased: see `BatchNorm`.
        ln_epsilon: of layer norm.
    """

    dtype: Dtype | None = None
    init: Init = "paper"
    kernel_init: Initializer = kaiming_normal
    head_init: Initializer = small_normal
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    bn_unbiased: bool = False
    ln_epsilon: float = 1e-6

    def conv(
        self,
        x: Float[Array, "b h w c"],
        features: int,
        kernel: int,
        stride: int = 1,
        *,
        name: str,
        groups: int = 1,
        bias: bool = False,
        padding: int | Literal["SAME"] | None = None,
        init: Init | None = None,
    ) -> Float[Array, "b h2 w2 c2"]:
        """A square convolution, padded by kernel // 2 on every side where nothing else is said."""
        if padding is None:
            padding = kernel // 2
        kernel_init, bias_init = self._inits(kernel * kernel * x.shape[-1] // groups, init)
        return nn.Conv(
            features,
            (kernel, kernel),
            (stride, stride),
            padding=padding if isinstance(padding, str) else [(padding, padding)] * 2,
            feature_group_count=groups,
            use_bias=bias,
            kernel_init=kernel_init,
            bias_init=bias_init,
            dtype=self.dtype,
            conv_general_dilated=faster_conv(kernel, groups, x.shape[-1]),
            name=name,
        )(x)

    def dense(
        self, x: Float[Array, "*b c"], features: int, *, name: str, bias: bool = True
    ) -> Float[Array, "*b k"]:
        """A linear layer on the last axis."""
        kernel_init, bias_init = self._inits(x.shape[-1])
        return nn.Dense(
            features,
            use_bias=bias,
            kernel_init=kernel_init,
            bias_init=bias_init,
            dtype=self.dtype,
            name=name,
        )(x)

    def head(
        self, pooled: Float[Array, "b c"], classes: int, name: str = "head"
    ) -> Float[Array, "b k"]:
        """A linear classifier; its logits are at least float32."""
        kernel_init, bias_init = self._inits(pooled.shape[-1])
        if self.init == "paper":
            kernel_init = self.head_init
        return nn.Dense(classes, kernel_init=kernel_init, bias_init=bias_init, name=name)(pooled)

    def batch_norm(
        self, x: Float[Array, "b h w c"], train: bool, *, name: str, start_at_zero: bool = False
    ) -> Float[Array, "b h w c"]:
        """Batch norm; `start_at_zero` lets a residual branch start as nothing."""
        zero = start_at_zero and self.init == "paper"
        return BatchNorm(
            momentum=self.bn_momentum,
            epsilon=self.bn_epsilon,
            unbiased=self.bn_unbiased,
            scale_init=nn.initializers.zeros if zero else nn.initializers.ones,
            dtype=self.dtype,
            name=name,
        )(x, train=train)

    def layer_norm(
        self, x: Float[Array, "*b c"], *, name: str, wide: bool = False
    ) -> Float[Array, "*b c"]:
        """Layer norm over the last axis; its statistics are at least float32.

        `wide` keeps the output so too, for what is pooled.
        """
        dtype = jnp.promote_types(x.dtype, jnp.float32) if wide else self.dtype
        return nn.LayerNorm(
            epsilon=self.ln_epsilon, use_fast_variance=False, dtype=dtype, name=name
        )(x)

    def _inits(self, fan_in: int, init: Init | None = None) -> tuple[Initializer, Initializer]:
        """Initialisers of kernel and bias."""
        if (init or self.init) == "paper":
            return self.kernel_init, nn.initializers.zeros
        uniform = nn.initializers.uniform(2 / np.sqrt(fan_in))

        def centred(key, shape, dtype=jnp.float32, out_sharding=None):
            return uniform(key, shape, dtype) - 1 / np.sqrt(fan_in).astype(dtype)

        return centred, centred


def drop_path(x: Array, rate: float, train: bool) -> Array:
    """Leaves out the residual branch of a whole image with a probability (Huang et al., 2016).

    What stays is divided by one minus it. The draws come from the module's "dropout" key.
    """
    everything_else = tuple(range(1, x.ndim))
    return nn.Dropout(rate, broadcast_dims=everything_else)(x, deterministic=not train)


def drop_path_rates(rate: float, blocks: int) -> list[float]:
    """The rate of each block: from 0 at the first to `rate` at the last, in equal steps."""
    return np.linspace(0, rate, blocks).tolist()


def global_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
    """The mean over positions, at least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean((1, 2))


def max_pool(x: Float[Array, "b h w c"], size: int, stride: int) -> Float[Array, "b h2 w2 c"]:
    """Max pooling padded with minus infinity by size // 2 on every side, as in PyTorch."""
    return nn.max_pool(x, (size, size), (stride, stride), [(size // 2, size // 2)] * 2)
