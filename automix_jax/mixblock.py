"""MixBlock: two feature maps and a ratio become a mask that says which image shows where.

Everything here is independent of the trainer: `MixBlock` is a Flax module, the rest are pure
functions. The own image has index i, its partner j = perm[i]; `mask` is the weight of the own image
and 1 - mask that of the partner.
"""

from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Int

from automix_jax.attention import attend
from automix_jax.errors import ConfigError

LamEmbed = Literal["concat", "none"]
Upsample = Literal["nearest", "bilinear"]
MaskLossForm = Literal["l1", "l1_variance", "l2_variance", "sparsity"]


@flax.struct.dataclass
class Projections:
    """What MixBlock computes once from a batch of feature maps and uses for every pairing of it.

    The ratio's constant input channel is linear in the ratio, so it is kept apart and added per
    mask. At the keys it shifts a whole row of logits by one number, which the softmax cancels: the
    keys need none.
    """

    query: Any  # [B, h w, d]; `Any`, since JAX rebuilds trees with other things than arrays
    key: Any  # [B, h w, d]
    value: Any  # [B, h w]
    lam_query: Any  # [d], or None where the ratio is not embedded
    lam_value: Any  # [], or None
    grid: tuple[int, int] = flax.struct.field(pytree_node=False)  # (h, w)


class _Pointwise(nn.Module):
    """A 1 x 1 convolution whose weights for one extra input channel are returned apart."""

    features: int
    extra_channel: bool
    dtype: Dtype | None

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array | None]:
        channels = x.shape[-1]
        shape = (1, 1, channels + self.extra_channel, self.features)
        kernel = self.param("kernel", nn.initializers.normal(0.01), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, weights = nn.dtypes.promote_dtype(x, kernel[0, 0, :channels], dtype=self.dtype)
        # The sum leaves the matrix unit in float32 even where its factors are bfloat16.
        wide = jnp.promote_types(x.dtype, jnp.float32)
        out = jnp.einsum("bnc,cd->bnd", x, weights, preferred_element_type=wide) + bias
        return out, kernel[0, 0, channels] if self.extra_channel else None


class MixBlock(nn.Module):
    """Cross-attention from two feature maps and a ratio to a mask (section 3.1, Eqs. 4 to 6).

    Attributes:
        reduction: channels of query and key are the features' divided by this.
        share_qk: one projection for query and key (the paper's W_P) or one each.
        lam_embed: "concat" appends the ratio to the own features and one minus it to the
            partner's (Eq. 4); "none" leaves the mask independent of the ratio.
        upsample: from the feature grid to the image, "nearest" or "bilinear".
        dtype: of the projections' factors; everything after them is at least float32.

    Parameters: `query` and `value` (and `key` when share_qk is False), each a kernel
    [1, 1, C', features] and a bias, initialised N(0, 0.01^2) and 0, so that an untrained block
    answers one half everywhere.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from automix_jax import MixBlock
        >>> block, size = MixBlock(), (16, 16)
        >>> features, perm = jnp.ones((2, 4, 4, 8)), jnp.array([1, 0])
        >>> params = block.init(jax.random.key(0), features, 0.3, perm, image_size=size)
        >>> jax.eval_shape(lambda p: block.apply(p, features, 0.3, perm, image_size=size), params)
        ShapeDtypeStruct(shape=(2, 16, 16, 1), dtype=float32)
    """

    reduction: int = 2
    share_qk: bool = True
    lam_embed: LamEmbed = "concat"
    upsample: Upsample = "nearest"
    dtype: Dtype | None = None

    @nn.nowrap
    def check(self) -> None:
        """Raises ConfigError for attributes that cannot work."""
        if self.lam_embed not in ("concat", "none"):
            raise ConfigError(f"lam_embed is {self.lam_embed!r}: use 'concat' or 'none'.")
        if self.upsample not in ("nearest", "bilinear"):
            raise ConfigError(f"upsample is {self.upsample!r}: use 'nearest' or 'bilinear'.")
        if self.reduction < 1:
            raise ConfigError(f"reduction is {self.reduction}: use 1 or more.")

    def __call__(
        self,
        features: Float[Array, "b h w c"],
        lam: Float[Array, ""] | Float[Array, " b"] | float,
        perm: Int[Array, " b"],
        *,
        image_size: tuple[int, int],
    ) -> Float[Array, "b height width 1"]:
        """Returns the mask at image size, at least float32: the weight of the own image.

        Args:
            features: feature maps of the batch.
            lam: ratio in [0, 1], the weight of the own image, one for all or one each.
            perm: the partner of image i is image perm[i].
            image_size: (height, width) of the images to be mixed.

        Raises:
            ConfigError: if an attribute cannot work.
        """
        return predict_mask(self.project(features), lam, perm, image_size, self.upsample)

    @nn.compact
    def project(self, features: Float[Array, "b h w c"]) -> Projections:
        """Computes all that does not depend on the ratio or the pairing."""
        self.check()
        batch, height, width, channels = features.shape
        tokens = features.reshape(batch, height * width, channels)
        depth = max(channels // self.reduction, 1)

        def pointwise(name: str, features: int) -> _Pointwise:
            return _Pointwise(features, self.lam_embed == "concat", self.dtype, name=name)

        query, lam_query = pointwise("query", depth)(tokens)
        key = query if self.share_qk else pointwise("key", depth)(tokens)[0]
        value, lam_value = pointwise("value", 1)(tokens)
        return Projections(
            query=query,
            key=key,
            value=value[..., 0],
            lam_query=lam_query,
            lam_value=None if lam_value is None else lam_value[0],
            grid=(height, width),
        )


def predict_mask(
    projections: Projections,
    lam: Float[Array, ""] | Float[Array, " b"] | float,
    perm: Int[Array, " b"],
    image_size: tuple[int, int],
    upsample: Upsample = "nearest",
) -> Float[Array, "b height width 1"]:
    """Returns the mask of one pairing from what `MixBlock.project` computed.

    The value is the partner's and is read off at the own image's positions, as in the authors'
    code; its sigmoid is the partner's share, so the own share is the sigmoid of the negative.
    """
    query, value = projections.query, projections.value[perm]
    lam = jnp.broadcast_to(jnp.asarray(lam, query.dtype), query.shape[:1])
    if projections.lam_query is not None and projections.lam_value is not None:
        query = query + lam[:, None, None] * projections.lam_query
        value = value + (1 - lam)[:, None] * projections.lam_value
    logits = -attend(query, projections.key[perm], value)
    logits = logits.reshape(-1, *projections.grid, 1)  # [B, h, w, 1]
    if upsample == "bilinear":
        return jax.nn.sigmoid(jax.image.resize(logits, _resized(logits, image_size), "bilinear"))
    return _upsample_nearest(jax.nn.sigmoid(logits), image_size)


def _resized(maps: Array, size: tuple[int, int]) -> tuple[int, int, int, int]:
    return (maps.shape[0], *size, maps.shape[3])


def _upsample_nearest(maps: Float[Array, "b h w c"], size: tuple[int, int]) -> Array:
    batch, height, width, channels = maps.shape
    if size[0] % height or size[1] % width:
        return jax.image.resize(maps, _resized(maps, size), "nearest")
    factors = (size[0] // height, size[1] // width)
    tiled = jnp.broadcast_to(
        maps[:, :, None, :, None], (batch, height, factors[0], width, factors[1], channels)
    )
    return tiled.reshape(batch, *size, channels)


def mix_images(
    images: Float[Array, "b h w c"], mask: Float[Array, "n h w 1"], perm: Int[Array, " b"]
) -> Float[Array, "b h w c"]:
    """Returns mask * images + (1 - mask) * images[perm] in the images' dtype (Eq. 4).

    There is one mask for each image (n = b), or one for all (n = 1).

    Examples:
        >>> import jax.numpy as jnp
        >>> from automix_jax import mix_images
        >>> images = jnp.array([0.0, 10.0]).reshape(2, 1, 1, 1)
        >>> mix_images(images, jnp.full((2, 1, 1, 1), 0.75), jnp.array([1, 0])).ravel().tolist()
        [2.5, 7.5]
    """
    mixed = mask * images + (1 - mask) * images[perm]
    return mixed.astype(images.dtype)


def mask_loss(
    mask: Float[Array, "b h w 1"],
    lam: Float[Array, ""] | Float[Array, " b"] | float,
    *,
    form: MaskLossForm = "l1",
    margin: float = 0.1,
    per_sample: bool = True,
) -> Float[Array, ""]:
    """Returns how far the masks are from showing a share `lam` of the own images (Eq. 7).

    The weight (the paper's gamma) is left to the caller.

    Args:
        mask: weight of the own image.
        lam: ratio, one for all or one each.
        form: "l1" is Eq. 7. "l1_variance" and "l2_variance" (squared deviation and margin) also
            subtract twice the masks' variance; "sparsity" pushes masks to 0 and 1 whatever lam.
        margin: deviation that costs nothing (the paper's epsilon).
        per_sample: each mask answers for its own area, as in Eq. 7; otherwise only the mean over
            the batch does, as in the authors' code.

    Raises:
        ConfigError: for an unknown form.

    Examples:
        >>> import jax.numpy as jnp
        >>> from automix_jax import mask_loss
        >>> mask = jnp.stack([jnp.full((4, 4, 1), 0.25), jnp.full((4, 4, 1), 0.75)])
        >>> float(mask_loss(mask, 0.5, margin=0.125))  # each is off by 0.25
        0.125
        >>> float(mask_loss(mask, 0.5, margin=0.125, per_sample=False))  # together they are not
        0.0
    """
    axes = (1, 2, 3) if per_sample else (0, 1, 2, 3)
    mean = mask.mean(axes)
    variance = jnp.square(mask - mask.mean(axes, keepdims=True)).mean()
    if form == "l1":
        return jnp.maximum(jnp.abs(mean - lam) - margin, 0).mean()
    if form == "l1_variance":
        return jnp.maximum(jnp.abs(mean - lam) - margin, 0).mean() - 2 * variance
    if form == "l2_variance":
        return jnp.maximum(jnp.square(mean - lam) - margin**2, 0).mean() - 2 * variance
    if form == "sparsity":
        return jnp.maximum(jnp.abs(mask * (mask - 1)).mean(axes) - margin, 0).mean()
    raise ConfigError(
        f"mask loss form is {form!r}: use 'l1', 'l1_variance', 'l2_variance' or 'sparsity'."
    )
