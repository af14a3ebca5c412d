"""MobileNetV2 (Sandler et al., 2018) and EfficientNet-B0 (Tan and Le, 2019)."""

import functools
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from automix_jax.models.backbone import BatchNormBackbone, Transform
from automix_jax.models.layers import Layers, drop_path, drop_path_rates, global_pool

Convention = Literal["torch", "tf"]


class Stage(NamedTuple):
    """A row of a network's table: `blocks` inverted residuals, the first one strided."""

    kernel: int
    width: int
    blocks: int
    stride: int
    expansion: int


class InvertedResidual(nn.Module):
    """1 x 1 expansion, depthwise convolution, squeeze-and-excitation, 1 x 1 linear projection.

    Attributes:
        row: the stage that the block belongs to.
        stride: of the depthwise convolution.
        activation: between the convolutions.
        squeeze: channels of the squeeze as a share of the block's input; 0 for no squeeze.
        padding: "SAME" for TensorFlow's, None for PyTorch's.
        layers: what the layers have in common.
        drop_path: rate of stochastic depth.
    """

    row: Stage
    stride: int
    activation: Callable[[Array], Array]
    squeeze: float
    padding: Literal["SAME"] | None
    layers: Layers
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c2"]:
        """Returns the block's output, its size divided by the stride."""
        make, inner = self.layers, x.shape[-1] * self.row.expansion
        y = x
        if self.row.expansion > 1:
            y = make.conv(y, inner, 1, name="expand_conv")
            y = self.activation(make.batch_norm(y, train, name="expand_bn"))
        y = make.conv(
            y,
            inner,
            self.row.kernel,
            self.stride,
            groups=inner,
            padding=self.padding,
            name="depthwise_conv",
        )
        y = self.activation(make.batch_norm(y, train, name="depthwise_bn"))
        if self.squeeze:
            gate = y.mean((1, 2), keepdims=True)  # [B, 1, 1, inner]
            gate = make.conv(
                gate, int(x.shape[-1] * self.squeeze), 1, bias=True, name="squeeze_conv"
            )
            gate = make.conv(self.activation(gate), inner, 1, bias=True, name="excite_conv")
            y = y * nn.sigmoid(gate)
        y = make.conv(y, self.row.width, 1, name="project_conv")
        y = make.batch_norm(y, train, name="project_bn")
        if x.shape == y.shape:
            y = x + drop_path(y, self.drop_path, train)
        return y


class MobileNet(BatchNormBackbone, kw_only=True):
    """A stack of inverted residuals; its feature maps are "stem", "stage1" to "stage8".

    The last one is the 1 x 1 convolution that is pooled. "stage5" is the last at stride 16.

    Attributes:
        stages: the table of the network.
        activation: between convolutions.
        squeeze: see `InvertedResidual`.
        convention: "torch" pads symmetrically, with an epsilon of 1e-5 in batch norm; "tf" pads as
            TensorFlow's "SAME", with 1e-3. Weights work with the one that they were trained with:
            torchvision's with "torch".
    """

    stages: tuple[Stage, ...]
    activation: Callable[[Array], Array]
    squeeze: float = 0.0
    convention: Convention = "torch"

    @property
    def layers(self) -> Layers:
        """What the layers have in common."""
        return Layers(
            self.dtype,
            self.init_scheme,
            bn_momentum=self.bn_momentum,
            bn_epsilon=1e-3 if self.convention == "tf" else 1e-5,
            bn_unbiased=self.bn_unbiased,
        )

    @nn.nowrap
    def trunk(
        self, images: Float[Array, "b h w c"], train: bool, transform: Transform
    ) -> Iterator[tuple[str, Array]]:
        """Yields the outputs of the stem, of each stage and of the last convolution."""
        make = self.layers
        padding: Literal["SAME"] | None = "SAME" if self.convention == "tf" else None
        x = make.conv(images, 32, 3, 2, padding=padding, name="stem_conv")
        x = self.activation(make.batch_norm(x, train, name="stem_bn"))
        x = transform("stem", x)
        yield "stem", x

        rates = iter(drop_path_rates(self.drop_path, sum(row.blocks for row in self.stages)))
        for i, row in enumerate(self.stages, 1):
            for j in range(1, row.blocks + 1):
                stride = row.stride if j == 1 else 1
                block = InvertedResidual(
                    row,
                    stride,
                    self.activation,
                    self.squeeze,
                    padding,
                    make,
                    next(rates),
                    name=f"stage{i}_block{j}",
                )
                x = self.through(block, x, train)
            x = transform(f"stage{i}", x)
            yield f"stage{i}", x
        x = make.conv(x, 1280, 1, name="last_conv")
        x = self.activation(make.batch_norm(x, train, name="last_bn"))
        x = transform(f"stage{len(self.stages) + 1}", x)
        yield f"stage{len(self.stages) + 1}", x
        yield "pooled", global_pool(x)


MobileNetV2 = functools.partial(
    MobileNet,
    stages=(
        Stage(3, 16, 1, 1, 1),
        Stage(3, 24, 2, 2, 6),
        Stage(3, 32, 3, 2, 6),
        Stage(3, 64, 4, 2, 6),
        Stage(3, 96, 3, 1, 6),
        Stage(3, 160, 3, 2, 6),
        Stage(3, 320, 1, 1, 6),
    ),
    activation=nn.relu6,
)
EfficientNetB0 = functools.partial(
    MobileNet,
    stages=(
        Stage(3, 16, 1, 1, 1),
        Stage(3, 24, 2, 2, 6),
        Stage(5, 40, 2, 2, 6),
        Stage(3, 80, 3, 2, 6),
        Stage(5, 112, 3, 1, 6),
        Stage(5, 192, 4, 2, 6),
        Stage(3, 320, 1, 1, 6),
    ),
    activation=nn.silu,
    squeeze=0.25,
    convention="tf",
)
