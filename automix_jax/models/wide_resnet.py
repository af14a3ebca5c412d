"""Wide ResNet (Zagoruyko and Komodakis, 2016) as the authors of AutoMix use it."""

import functools
from collections.abc import Iterator

import flax.linen as nn
from jaxtyping import Array, Float

from automix_jax.models.backbone import BatchNormBackbone, Transform
from automix_jax.models.layers import Layers, drop_path, drop_path_rates, global_pool

leaky_relu = functools.partial(nn.leaky_relu, negative_slope=0.1)


class PreActivationBlock(nn.Module):
    """Norm, activation and 3 x 3 convolution, twice, and a shortcut.

    Attributes:
        width: channels of the output.
        stride: of the first convolution.
        layers: what the layers have in common.
        drop_path: rate of stochastic depth.
        activate_input: whether the shortcut too reads the activated input.
    """

    width: int
    stride: int
    layers: Layers
    drop_path: float = 0.0
    activate_input: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c2"]:
        """Returns the block's output, its size divided by the stride."""
        make = self.layers
        y = leaky_relu(make.batch_norm(x, train, name="bn1"))
        if self.activate_input:
            x = y
        y = make.conv(y, self.width, 3, self.stride, bias=True, name="conv1")
        y = leaky_relu(make.batch_norm(y, train, name="bn2"))
        y = make.conv(y, self.width, 3, bias=True, name="conv2")
        if x.shape != y.shape:
            x = make.conv(x, self.width, 1, self.stride, bias=True, name="shortcut")
        return x + drop_path(y, self.drop_path, train)


class WideResNet(BatchNormBackbone, kw_only=True):
    """Pre-activation residual network of three stages, for small images.

    Its feature maps are "stem" and "stage1" to "stage3", the sums before the next norm. All
    convolutions have biases, and batch norm forgets slowly, at a larger epsilon.

    Attributes:
        blocks: in each stage; 4 for depth 28.
        width: channels of the first stage, 16 times the widening factor; doubles with each stage.
    """

    blocks: int = 4
    width: int = 128
    bn_momentum: float = 0.999

    @property
    def layers(self) -> Layers:
        """What the layers have in common."""
        return Layers(
            self.dtype,
            self.init_scheme,
            bn_momentum=self.bn_momentum,
            bn_epsilon=1e-3,
            bn_unbiased=self.bn_unbiased,
        )

    @nn.nowrap
    def trunk(
        self, images: Float[Array, "b h w c"], train: bool, transform: Transform
    ) -> Iterator[tuple[str, Array]]:
        """Yields the outputs of the stem and of each stage."""
        make = self.layers
        x = make.conv(images, 16, 3, bias=True, name="stem_conv")
        x = transform("stem", x)
        yield "stem", x
        rates = iter(drop_path_rates(self.drop_path, 3 * self.blocks))
        for i in range(3):
            for j in range(self.blocks):
                block = PreActivationBlock(
                    self.width * 2**i,
                    stride=2 if i > 0 and j == 0 else 1,
                    layers=make,
                    drop_path=next(rates),
                    activate_input=i == j == 0,
                    name=f"stage{i + 1}_block{j + 1}",
                )
                x = self.through(block, x, train)
            x = transform(f"stage{i + 1}", x)
            yield f"stage{i + 1}", x
        x = leaky_relu(make.batch_norm(x, train, name="bn"))
        yield "pooled", global_pool(x)


WideResNet28x8 = functools.partial(WideResNet, width=128)
WideResNet28x10 = functools.partial(WideResNet, width=160)
