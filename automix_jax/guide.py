"""A pretrained network whose attention guides a mixup."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from automix_jax.mixups.pixels import from_unit, to_unit
from automix_jax.models.backbone import Backbone

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Guide:
    """What AttentiveMix+ looks at: a frozen network's last feature map, the mean over channels.

    Attributes:
        model: the network.
        mean, std: of the images that it is given.
        own_mean, own_std: of the images that it was trained on.
        image_size: (height, width) that it reads, or None for that of the images.
        published: as the authors' runs had it: the images are not brought to the network's own
            normalisation, and its batch norm uses the batch's statistics.
    """

    model: Backbone
    mean: Sequence[float]
    std: Sequence[float]
    own_mean: Sequence[float] = IMAGENET_MEAN
    own_std: Sequence[float] = IMAGENET_STD
    image_size: tuple[int, int] | None = (224, 224)
    published: bool = False

    def attention(
        self, variables: PyTree, images: Float[Array, "b h w c"]
    ) -> Float[Array, "b rows columns"]:
        """Returns how much the network responds at each cell of its last map, float32."""
        inputs = jax.lax.stop_gradient(self.prepare(images))
        if self.published:
            (_, features), _ = self.model.apply(
                variables, inputs, train=True, mutable=["batch_stats"]
            )
        else:
            _, features = self.model.apply(variables, inputs)
        last = [x for name, x in features.items() if name != "attention"][-1]
        return last.astype(jnp.float32).mean(-1)

    def prepare(self, images: Float[Array, "b h w c"]) -> Float[Array, "b height width channels"]:
        """The images as the network knows them: its channels, its size, normalised its way."""
        if images.shape[-1] == 1:
            images = jnp.repeat(images, len(self.own_mean), -1)
        if not self.published:
            images = from_unit(to_unit(images, self.mean, self.std), self.own_mean, self.own_std)
        if self.image_size is None:
            return images
        shape = (images.shape[0], *self.image_size, images.shape[-1])
        return jax.image.resize(images, shape, "bilinear", antialias=False)
