"""ResNet (He et al., 2016) and ResNeXt (Xie et al., 2017), with the ImageNet and the CIFAR stem."""

import functools
from collections.abc import Callable, Iterator
from typing import Literal

import flax.linen as nn
from jaxtyping import Array, Float

from automix_jax.models.backbone import BatchNormBackbone, Transform
from automix_jax.models.layers import Layers, drop_path, drop_path_rates, global_pool, max_pool

Stem = Literal["imagenet", "cifar"]


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    width: int
    stride: int
    layers: Layers
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c2"]:
        """Returns the block's output, its size divided by the stride."""
        make = self.layers
        y = make.conv(x, self.width, 3, self.stride, name="conv1")
        y = nn.relu(make.batch_norm(y, train, name="bn1"))
        y = make.conv(y, self.width, 3, name="conv2")
        y = make.batch_norm(y, train, name="bn2", start_at_zero=True)
        x = _shortcut(x, y, self.stride, make, train)
        return nn.relu(x + drop_path(y, self.drop_path, train))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (strided, and grouped for ResNeXt) and 1 x 1 convolutions and a shortcut."""

    width: int
    stride: int
    layers: Layers
    drop_path: float = 0.0
    cardinality: int = 1
    group_width: int = 64  # channels of one group of the 3 x 3 convolution, at width 64

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c2"]:
        """Returns the block's output, its size divided by the stride."""
        make = self.layers
        inner = max(self.width * self.group_width // 64, 1) * self.cardinality
        y = make.conv(x, inner, 1, name="conv1")
        y = nn.relu(make.batch_norm(y, train, name="bn1"))
        y = make.conv(y, inner, 3, self.stride, groups=self.cardinality, name="conv2")
        y = nn.relu(make.batch_norm(y, train, name="bn2"))
        y = make.conv(y, self.width * 4, 1, name="conv3")
        y = make.batch_norm(y, train, name="bn3", start_at_zero=True)
        x = _shortcut(x, y, self.stride, make, train)
        return nn.relu(x + drop_path(y, self.drop_path, train))


def _shortcut(x: Array, y: Array, stride: int, make: Layers, train: bool) -> Array:
    """The input x, projected where the branch y has another shape."""
    if x.shape == y.shape:
        return x
    x = make.conv(x, y.shape[-1], 1, stride, name="shortcut_conv")
    return make.batch_norm(x, train, name="shortcut_bn")


class ResNet(BatchNormBackbone, kw_only=True):
    """A residual network; its feature maps are "stem", "stage1", "stage2", ...

    Attributes:
        stage_sizes: blocks in each stage.
        block: makes a block from width, stride, layers and drop path.
        stem: "imagenet" is a strided 7 x 7 convolution and a max pool, "cifar" a plain 3 x 3.
        width: channels of the stem and of the first stage's blocks; doubles with each stage.
    """

    stage_sizes: tuple[int, ...]
    block: Callable[..., nn.Module]
    stem: Stem = "imagenet"
    width: int = 64

    @nn.nowrap
    def trunk(
        self, images: Float[Array, "b h w c"], train: bool, transform: Transform
    ) -> Iterator[tuple[str, Array]]:
        """Yields the outputs of the stem, after its max pool, and of each stage."""
        make = self.layers
        kernel, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = make.conv(images, self.width, kernel, stride, name="stem_conv")
        x = nn.relu(make.batch_norm(x, train, name="stem_bn"))
        if self.stem == "imagenet":
            x = max_pool(x, 3, 2)
        x = transform("stem", x)
        yield "stem", x

        rates = iter(drop_path_rates(self.drop_path, sum(self.stage_sizes)))
        for i, blocks in enumerate(self.stage_sizes):
            stage = f"stage{i + 1}"
            for j in range(blocks):
                stride = 2 if i > 0 and j == 0 else 1
                name = f"{stage}_block{j + 1}"
                block = self.block(self.width * 2**i, stride, make, next(rates), name=name)
                x = self.through(block, x, train)
            x = transform(stage, x)
            yield stage, x
        yield "pooled", global_pool(x)


ResNet8 = functools.partial(ResNet, stage_sizes=(1, 1, 1), block=BasicBlock, width=16)
ResNet18 = functools.partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock)
ResNet34 = functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BasicBlock)
ResNet50 = functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Bottleneck)
ResNet101 = functools.partial(ResNet, stage_sizes=(3, 4, 23, 3), block=Bottleneck)
_ResNeXtBlock = functools.partial(Bottleneck, cardinality=32, group_width=4)
ResNeXt50 = functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), block=_ResNeXtBlock)
ResNeXt101 = functools.partial(ResNet, stage_sizes=(3, 4, 23, 3), block=_ResNeXtBlock)
