"""What every backbone is: named feature maps, one after the other, and a head on the last."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import flax.linen as nn
from flax.typing import Dtype
from jaxtyping import Array, Float

from automix_jax.models.layers import Init, Layers

Features = dict[str, Float[Array, "b _ _ _"]]
Transform = Callable[[str, Array], Array]  # (name of a map, activations [B, ...]) -> activations


class Backbone(nn.Module, kw_only=True):
    """A network that returns logits and the feature map of every stage.

    A subclass says how it comes from images to maps (`trunk`) and what its layers have in common
    (`layers`).

    Attributes:
        num_classes: of the linear head; 0 returns the pooled features in place of logits.
        init_scheme: "paper", or "torch_default" for PyTorch's layer defaults.
        drop_path: rate of stochastic depth at the last block; it rises to it linearly.
        dropout: rate of dropout on the pooled features.
        dtype: of convolutions and matrix products; parameters, statistics and logits are float32.
        remat: whether the backward pass computes what lies inside a block once more, from the
            block's input, which is then all that is kept of it. Outputs and variables are the same.

    `class_token` says whether the head reads one, whose attention is then among the maps.

    In training, drop path and dropout draw from the key in `rngs={"dropout": key}`.
    """

    num_classes: int = 1000
    init_scheme: Init = "paper"
    drop_path: float = 0.0
    dropout: float = 0.0
    dtype: Dtype | None = None
    remat: bool = False

    class_token: ClassVar[bool] = False

    @property
    def layers(self) -> Layers:
        """What the layers have in common."""
        return Layers(self.dtype, self.init_scheme)

    @nn.nowrap
    def trunk(
        self, images: Float[Array, "b h w c"], train: bool, transform: Transform
    ) -> Iterator[tuple[str, Array]]:
        """Yields the feature maps [B, h, w, C] by name, in order, and at last "pooled" [B, C].

        At each map it goes on with what `transform` makes of its activations. It runs inside
        `__call__`, and only as far as it is asked to: layers beyond are not made.
        """
        raise NotImplementedError

    @nn.nowrap
    def through(self, block: nn.Module, x: Array, train: bool) -> Any:
        """Returns what a block, a module of the trunk, makes of x [B, ...]."""
        call: Callable[..., Any] = type(block).__call__
        if self.remat:
            call = nn.remat(call, static_argnums=2)  # `train`, after the block itself and x
        return call(block, x, train)

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b h w c"],
        train: bool = False,
        stop_at: str | None = None,
        transform: Transform | None = None,
    ) -> tuple[Float[Array, "b k"] | None, Features]:
        """Returns logits [B, num_classes] and the feature maps by name.

        Args:
            images: normalised images.
            train: batch norm uses the batch's statistics and updates "batch_stats"; dropout and
                drop path are active.
            stop_at: name of a feature map; the network ends there and the logits are None.
            transform: what becomes of the activations at each feature map before the network goes
                on, such as a mixup's `Mixed.transform`; of transformers, those of all tokens.

        Raises:
            ValueError: if stop_at names no feature map, or the images do not suit the network.
        """
        features: Features = {}
        for name, x in self.trunk(images, train, transform or _keep):
            if name == "pooled":
                break
            if 0 in x.shape[1:3]:
                size = f"{images.shape[1]} x {images.shape[2]}"
                raise ValueError(f"images of {size} are too small: nothing is left at {name}.")
            features[name] = x
            if name == stop_at:
                return None, features
        if stop_at is not None:
            raise ValueError(f"stop_at is {stop_at!r}: the feature maps are {', '.join(features)}.")
        pooled = nn.Dropout(self.dropout)(x, deterministic=not train)
        if not self.num_classes:
            return pooled, features
        return self.layers.head(pooled, self.num_classes), features


def _keep(name: str, x: Array) -> Array:
    """The transform that changes nothing."""
    del name
    return x


class BatchNormBackbone(Backbone, kw_only=True):
    """A backbone with batch norm.

    Attributes:
        bn_momentum: share of the running statistics that a step keeps.
        bn_unbiased: the running variance is the unbiased estimate, as in PyTorch.
    """

    bn_momentum: float = 0.9
    bn_unbiased: bool = False

    @property
    def layers(self) -> Layers:
        """What the layers have in common."""
        return Layers(
            self.dtype,
            self.init_scheme,
            bn_momentum=self.bn_momentum,
            bn_unbiased=self.bn_unbiased,
        )
