"""A backbone with one linear head for each kind of image that it learns from."""

import flax.linen as nn
from jaxtyping import Array, Float

from automix_jax.models.backbone import Backbone, Features, Transform


class Classifier(nn.Module):
    """A backbone without head and several linear heads on its pooled features.

    AutoMix learns clean and mixed images with separate heads on one backbone; a plain method has
    the "mix" head alone.

    Attributes:
        backbone: returns pooled features and feature maps (`create_model(..., num_classes=0)`).
        num_classes: of every head.
        heads: their names.
    """

    backbone: Backbone
    num_classes: int
    heads: tuple[str, ...] = ("mix", "clean")

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b h w c"],
        train: bool = False,
        stop_at: str | None = None,
        transform: Transform | None = None,
    ) -> tuple[dict[str, Float[Array, "b k"]], Features]:
        """Returns logits by head and feature maps by name; no logits when `stop_at` ends early.

        For the arguments see `Backbone`.
        """
        pooled, features = self.backbone(images, train, stop_at, transform)
        if pooled is None:
            return {}, features
        head = self.backbone.layers.head
        return {
            name: head(pooled, self.num_classes, f"head_{name}") for name in self.heads
        }, features
