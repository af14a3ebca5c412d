"""ResNet (He et al., 2016) and ResNeXt (Xie et al., 2017), with the ImageNet and the CIFAR stem."""

import functools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
from flax.typing import Dtype
from jaxtyping import Array, Float

from automix_jax.models.layers import BatchNorm, conv, global_pool, linear_head, max_pool

Stem = Literal["imagenet", "cifar"]
zeros = nn.initializers.zeros


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    width: int
    stride: int
    norm: Callable[..., BatchNorm]
    dtype: Dtype | None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c2"]:
        """Returns the block's output, its size divided by the stride."""
        y = conv(self.width, 3, self.stride, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train=train))
        y = conv(self.width, 3, dtype=self.dtype, name="conv2")(y)
        y = self.norm(name="bn2", scale_init=zeros)(y, train=train)
        if x.shape != y.shape:
            x = conv(self.width, 1, self.stride, dtype=self.dtype, name="shortcut_conv")(x)
            x = self.norm(name="shortcut_bn")(x, train=train)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (strided, and grouped for ResNeXt) and 1 x 1 convolutions and a shortcut."""

    width: int
    stride: int
    norm: Callable[..., BatchNorm]
    dtype: Dtype | None
    cardinality: int = 1
    group_width: int = 64  # channels of one group of the 3 x 3 convolution, at width 64

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c2"]:
        """Returns the block's output, its size divided by the stride."""
        inner = max(self.width * self.group_width // 64, 1) * self.cardinality
        outer = self.width * 4
        y = conv(inner, 1, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train=train))
        y = conv(inner, 3, self.stride, groups=self.cardinality, dtype=self.dtype, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y, train=train))
        y = conv(outer, 1, dtype=self.dtype, name="conv3")(y)
        y = self.norm(name="bn3", scale_init=zeros)(y, train=train)
        if x.shape != y.shape:
            x = conv(outer, 1, self.stride, dtype=self.dtype, name="shortcut_conv")(x)
            x = self.norm(name="shortcut_bn")(x, train=train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A residual network that also returns the feature map of every stage.

    Attributes:
        stage_sizes: blocks in each stage.
        block: makes a block from width, stride, norm and dtype.
        num_classes: of the linear head; 0 returns the pooled features in place of logits.
        stem: "imagenet" is a strided 7 x 7 convolution and a max pool, "cifar" a plain 3 x 3.
        width: channels of the stem and of the first stage's blocks; doubles with each stage.
        bn_groups: batch norm takes its statistics within this many groups of the batch.
        bn_momentum: share of the running statistics that a step keeps.
        bn_unbiased: the running variance is the unbiased estimate, as in PyTorch.
        dtype: of convolutions and activations; parameters, statistics and logits are float32.
    """

    stage_sizes: tuple[int, ...]
    block: Callable[..., nn.Module]
    num_classes: int = 1000
    stem: Stem = "imagenet"
    width: int = 64
    bn_groups: int = 1
    bn_momentum: float = 0.9
    bn_unbiased: bool = False
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w c"], train: bool = False, stop_at: str | None = None
    ) -> tuple[Float[Array, "b k"] | None, dict[str, Float[Array, "b _ _ _"]]]:
        """Returns logits [B, num_classes] and the feature maps by name.

        Args:
            images: normalised images.
            train: batch norm uses the batch's statistics and updates "batch_stats".
            stop_at: name of a feature map; the network ends there and the logits are None.

        Raises:
            ValueError: if stop_at names no feature map.
        """
        names = [f"stage{i}" for i in range(1, len(self.stage_sizes) + 1)]
        if stop_at is not None and stop_at not in names:
            raise ValueError(f"stop_at is {stop_at!r}: the feature maps are {', '.join(names)}.")
        norm = functools.partial(
            BatchNorm,
            groups=self.bn_groups,
            momentum=self.bn_momentum,
            unbiased=self.bn_unbiased,
            dtype=self.dtype,
        )
        kernel, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = conv(self.width, kernel, stride, dtype=self.dtype, name="stem_conv")(images)
        x = nn.relu(norm(name="stem_bn")(x, train=train))
        if self.stem == "imagenet":
            x = max_pool(x, 3, 2)

        features = {}
        for i, (name, blocks) in enumerate(zip(names, self.stage_sizes, strict=True)):
            for j in range(blocks):
                stride = 2 if i > 0 and j == 0 else 1
                x = self.block(
                    self.width * 2**i, stride, norm, self.dtype, name=f"{name}_block{j + 1}"
                )(x, train)
            features[name] = x
            if name == stop_at:
                return None, features
        pooled = global_pool(x)
        if not self.num_classes:
            return pooled, features
        return linear_head(self.num_classes)(pooled), features


ResNet8 = functools.partial(ResNet, (1, 1, 1), BasicBlock, width=16)
ResNet18 = functools.partial(ResNet, (2, 2, 2, 2), BasicBlock)
ResNet34 = functools.partial(ResNet, (3, 4, 6, 3), BasicBlock)
ResNet50 = functools.partial(ResNet, (3, 4, 6, 3), Bottleneck)
ResNet101 = functools.partial(ResNet, (3, 4, 23, 3), Bottleneck)
_ResNeXtBlock = functools.partial(Bottleneck, cardinality=32, group_width=4)
ResNeXt50 = functools.partial(ResNet, (3, 4, 6, 3), _ResNeXtBlock)
ResNeXt101 = functools.partial(ResNet, (3, 4, 23, 3), _ResNeXtBlock)
