"""A backbone with one linear head for each kind of image that it learns from."""

import flax.linen as nn
from jaxtyping import Array, Float

from automix_jax.models.layers import linear_head


class Classifier(nn.Module):
    """A backbone without head and several linear heads on its pooled features.

    AutoMix learns clean and mixed images with separate heads on one backbone; a plain method has
    the "mix" head alone.

    Attributes:
        backbone: returns pooled features and feature maps (`create_model(..., num_classes=0)`).
        num_classes: of every head.
        heads: their names.
    """

    backbone: nn.Module
    num_classes: int
    heads: tuple[str, ...] = ("mix", "clean")

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w c"], train: bool = False, stop_at: str | None = None
    ) -> tuple[dict[str, Float[Array, "b k"]], dict[str, Float[Array, "b _ _ _"]]]:
        """Returns logits by head and feature maps by name; no logits when `stop_at` ends early."""
        pooled, features = self.backbone(images, train, stop_at)
        if pooled is None:
            return {}, features
        return {
            name: linear_head(self.num_classes, name=f"head_{name}")(pooled) for name in self.heads
        }, features
