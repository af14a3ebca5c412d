"""ConvNeXt (Liu et al., 2022), with the ImageNet and the CIFAR stem."""

import functools
from collections.abc import Iterator

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from automix_jax.models.backbone import Backbone, Transform
from automix_jax.models.layers import Layers, drop_path, drop_path_rates, global_pool
from automix_jax.models.resnet import Stem


class ConvNeXtBlock(nn.Module):
    """7 x 7 depthwise convolution and a two-layer perceptron, scaled channel by channel."""

    layers: Layers
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        """Returns the block's output, of the input's shape."""
        make, channels = self.layers, x.shape[-1]
        y = make.conv(x, channels, 7, groups=channels, bias=True, name="depthwise_conv")
        y = make.layer_norm(y, name="norm")
        y = make.dense(y, 4 * channels, name="expand")
        y = make.dense(jax.nn.gelu(y, approximate=False), channels, name="project")
        gamma = self.param("gamma", nn.initializers.constant(1e-6), (channels,))
        return x + drop_path(gamma.astype(y.dtype) * y, self.drop_path, train)


class ConvNeXt(Backbone, kw_only=True):
    """A convolutional network in the manner of Swin; its maps are "stem", "stage1" to "stage4".

    Attributes:
        stage_sizes: blocks in each stage.
        stem: "imagenet" cuts 4 x 4 patches, "cifar" is a plain 3 x 3 convolution.
        width: channels of the first stage; doubles with each stage.
    """

    stage_sizes: tuple[int, ...]
    stem: Stem = "imagenet"
    width: int = 96

    @property
    def layers(self) -> Layers:
        """What the layers have in common."""
        return Layers(self.dtype, self.init_scheme, kernel_init=nn.initializers.normal(0.02))

    @nn.nowrap
    def trunk(
        self, images: Float[Array, "b h w c"], train: bool, transform: Transform
    ) -> Iterator[tuple[str, Array]]:
        """Yields the outputs of the stem and of each stage, before the next downsampling."""
        make = self.layers
        if self.stem == "imagenet":
            x = make.conv(images, self.width, 4, 4, padding=0, bias=True, name="stem_conv")
        else:
            x = make.conv(images, self.width, 3, bias=True, name="stem_conv")
        x = make.layer_norm(x, name="stem_norm")
        x = transform("stem", x)
        yield "stem", x

        rates = iter(drop_path_rates(self.drop_path, sum(self.stage_sizes)))
        for i, blocks in enumerate(self.stage_sizes):
            stage = f"stage{i + 1}"
            if i > 0:
                x = make.layer_norm(x, name=f"{stage}_down_norm")
                width = self.width * 2**i
                x = make.conv(x, width, 2, 2, padding=0, bias=True, name=f"{stage}_down_conv")
            for j in range(blocks):
                block = ConvNeXtBlock(make, next(rates), name=f"{stage}_block{j + 1}")
                x = self.through(block, x, train)
            x = transform(stage, x)
            yield stage, x
        yield "pooled", make.layer_norm(global_pool(x), name="norm", wide=True)


ConvNeXtT = functools.partial(ConvNeXt, stage_sizes=(3, 3, 9, 3))
ConvNeXtS = functools.partial(ConvNeXt, stage_sizes=(3, 3, 27, 3))
