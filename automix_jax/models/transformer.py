"""DeiT (Touvron et al., 2021) and Swin (Liu et al., 2021), in timm's form."""

import functools
from collections.abc import Iterator
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from automix_jax.models.backbone import Backbone, Transform
from automix_jax.models.layers import Layers, drop_path, drop_path_rates, global_pool

_normal = nn.initializers.normal(0.02)


def _attend(
    x: Float[Array, "b n c"],
    heads: int,
    make: Layers,
    bias: Float[Array, "m heads n n"] | None = None,
) -> tuple[Float[Array, "b n c"], Float[Array, "b heads n n"]]:
    """Multi-head self-attention among the n tokens of a window, softmax at least float32.

    `bias` is added to the logits; windows come in turns of m, or all have the one of m = 1. Returns
    the tokens, and how each of them (third axis) weighs the others (last axis).
    """
    batch, tokens, channels = x.shape
    windows = 1 if bias is None else len(bias)
    if channels % heads:
        raise ValueError(f"{channels} channels do not divide among {heads} heads.")
    qkv = make.dense(x, 3 * channels, name="qkv")  # [q; k; v], each of them head by head
    qkv = qkv.reshape(batch // windows, windows, tokens, 3, heads, channels // heads)
    query, key, value = (qkv[:, :, :, i] for i in range(3))
    wide = jnp.promote_types(x.dtype, jnp.float32)
    logits = jnp.einsum("bmqhd,bmkhd->bmhqk", query, key, preferred_element_type=wide)
    logits = logits / np.sqrt(channels // heads).astype(wide)
    weights = jax.nn.softmax(logits if bias is None else logits + bias)
    out = jnp.einsum("bmhqk,bmkhd->bmqhd", weights.astype(x.dtype), value)
    out = make.dense(out.reshape(batch, tokens, channels), channels, name="proj")
    return out, weights.reshape(batch, heads, tokens, tokens)


def _perceptron(x: Float[Array, "*b c"], make: Layers) -> Float[Array, "*b c"]:
    """Two linear layers, the inner one four times as wide."""
    channels = x.shape[-1]
    y = jax.nn.gelu(make.dense(x, 4 * channels, name="fc1"), approximate=False)
    return make.dense(y, channels, name="fc2")


class TransformerBlock(nn.Module):
    """Attention among all tokens, then a perceptron; each reads a norm and adds to its input."""

    heads: int
    layers: Layers
    drop_path: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n c"], train: bool
    ) -> tuple[Float[Array, "b n c"], Float[Array, "b heads n n"]]:
        """Returns the block's output, of the input's shape, and its attention."""
        make = self.layers
        y, attention = _attend(make.layer_norm(x, name="norm1"), self.heads, make)
        x = x + drop_path(y, self.drop_path, train)
        y = _perceptron(make.layer_norm(x, name="norm2"), make)
        return x + drop_path(y, self.drop_path, train), attention


class VisionTransformer(Backbone, kw_only=True):
    """DeiT without distillation token; its feature maps are "block1", "block2", ...

    They are the patch tokens as an image [B, h / 16, w / 16, C], without the class token and the
    final norm. After them comes "attention" [B, h / 16, w / 16, 1]: how the class token weighs the
    patches in the last block, the mean over heads. The position embedding has the grid of the
    images that the network is made with.

    Attributes:
        width: channels of a token.
        heads: of the attention.
        blocks: how many.
        patch: side of a patch, in pixels.
    """

    width: int
    heads: int
    blocks: int = 12
    patch: int = 16

    class_token: ClassVar[bool] = True

    @property
    def layers(self) -> Layers:
        """What the layers have in common."""
        return Layers(self.dtype, self.init_scheme, kernel_init=_normal, head_init=_normal)

    @nn.nowrap
    def trunk(
        self, images: Float[Array, "b h w c"], train: bool, transform: Transform
    ) -> Iterator[tuple[str, Array]]:
        """Yields the patch tokens after each block; what is pooled is the class token."""
        _check_patches(images, self.patch)
        make = self.layers
        x = make.conv(
            images,
            self.width,
            self.patch,
            self.patch,
            padding=0,
            bias=True,
            init="torch_default",
            name="patch",
        )
        grid = x.shape  # [B, h, w, C]
        tokens = x.reshape(x.shape[0], -1, self.width)
        start = nn.initializers.zeros if self.init_scheme == "torch_default" else _normal
        cls = self.param("cls", start, (1, 1, self.width))
        positions = self.param("positions", start, (1, 1 + tokens.shape[1], self.width))
        cls = jnp.broadcast_to(cls, (x.shape[0], 1, self.width)).astype(x.dtype)
        tokens = jnp.concatenate([cls, tokens], axis=1) + positions.astype(x.dtype)
        for i, rate in enumerate(drop_path_rates(self.drop_path, self.blocks)):
            block = TransformerBlock(self.heads, make, rate, name=f"block{i + 1}")
            tokens, attention = self.through(block, tokens, train)
            tokens = transform(f"block{i + 1}", tokens)
            yield f"block{i + 1}", tokens[:, 1:].reshape(grid)
        yield "attention", attention[:, :, 0, 1:].mean(1).reshape(*grid[:3], 1)
        yield "pooled", make.layer_norm(tokens[:, 0], name="norm", wide=True)


class WindowBlock(nn.Module):
    """A transformer block whose attention stays within windows of 7 x 7 positions.

    A side of the map that is no longer than the window is one window, of the map's own size, and
    never shifted. The bias is a parameter for every offset within 7 x 7, whatever the map.

    Attributes:
        heads: of the attention.
        layers: what the layers have in common.
        shifted: whether the windows are moved by half their size.
        drop_path: rate of stochastic depth.
    """

    heads: int
    layers: Layers
    shifted: bool
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        """Returns the block's output, of the input's shape."""
        make = self.layers
        grid = (x.shape[1], x.shape[2])
        window = (min(_WINDOW, grid[0]), min(_WINDOW, grid[1]))
        by = _WINDOW // 2 if self.shifted else 0
        shift = (by * (grid[0] > _WINDOW), by * (grid[1] > _WINDOW))
        start = nn.initializers.zeros if make.init == "torch_default" else _normal
        table = self.param("bias_table", start, ((2 * _WINDOW - 1) ** 2, self.heads))
        bias = jnp.moveaxis(table[_offsets(window)], -1, 0)[None]  # [1, heads, n, n]
        if any(shift):
            bias = (
                bias + jnp.asarray(_barriers(grid, window, shift))[:, None]
            )  # [windows, heads, n, n]

        y = make.layer_norm(x, name="norm1")
        y = jnp.roll(y, (-shift[0], -shift[1]), (1, 2))
        y = jnp.pad(y, ((0, 0), *((0, -s % w) for s, w in zip(grid, window, strict=True)), (0, 0)))
        padded = y.shape
        y, _ = _attend(_to_windows(y, window), self.heads, make, bias)
        y = _from_windows(y, padded, window)[:, : grid[0], : grid[1]]
        x = x + drop_path(jnp.roll(y, shift, (1, 2)), self.drop_path, train)
        y = _perceptron(make.layer_norm(x, name="norm2"), make)
        return x + drop_path(y, self.drop_path, train)


_WINDOW = 7


def _offsets(window: tuple[int, int]) -> np.ndarray:
    """For each pair (query, key) of a window the row of the bias table [n, n]."""
    rows, columns = np.divmod(np.arange(window[0] * window[1]), window[1])
    down, right = (axis[:, None] - axis[None] + _WINDOW - 1 for axis in (rows, columns))
    return down * (2 * _WINDOW - 1) + right


def _barriers(grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]) -> np.ndarray:
    """-100 between positions that only the cyclic shift has made neighbours [windows, n, n]."""
    region = [np.zeros(side + -side % w, int) for side, w in zip(grid, window, strict=True)]
    for labels, w, s in zip(region, window, shift, strict=True):
        labels[-w:] = 1
        if s:
            labels[-s:] = 2
    labels = 3 * region[0][:, None] + region[1]  # [h, w]
    within = _to_windows(labels[None, :, :, None], window)[:, :, 0]  # [windows, n]
    return np.where(within[:, None] == within[:, :, None], 0.0, -100.0).astype(np.float32)


def _to_windows(x, window: tuple[int, int]):
    """[B, h, w, C] to [B * windows, positions of a window, C]."""
    _, height, width, channels = x.shape
    x = x.reshape(-1, height // window[0], window[0], width // window[1], window[1], channels)
    return x.swapaxes(2, 3).reshape(-1, window[0] * window[1], channels)


def _from_windows(x, shape: tuple[int, ...], window: tuple[int, int]):
    """The inverse of `_to_windows`; `shape` is [B, h, w, C]."""
    _, height, width, channels = shape
    x = x.reshape(-1, height // window[0], width // window[1], *window, channels)
    return x.swapaxes(2, 3).reshape(-1, height, width, channels)


class PatchMerging(nn.Module):
    """Four neighbours become one position of twice the channels."""

    layers: Layers

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        """Returns a map of half the size; an odd side is padded by one."""
        channels = x.shape[-1]
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        parts = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        x = self.layers.layer_norm(jnp.concatenate(parts, axis=-1), name="norm")
        return self.layers.dense(x, 2 * channels, bias=False, name="reduction")


class SwinTransformer(Backbone, kw_only=True):
    """Attention within shifted windows, on maps that shrink.

    Its feature maps are "stem", "stage1" to "stage4", and "merge1" to "merge3": what patch merging
    makes of the stage of that number. The authors of AutoMix read "merge3".

    Attributes:
        stage_sizes: blocks in each stage.
        width: channels of the first stage; doubles with each stage.
        heads: of the attention in the first stage; doubles with each stage.
    """

    stage_sizes: tuple[int, ...]
    width: int = 96
    heads: int = 3

    @property
    def layers(self) -> Layers:
        """What the layers have in common."""
        return Layers(
            self.dtype, self.init_scheme, kernel_init=_normal, head_init=_normal, ln_epsilon=1e-5
        )

    @nn.nowrap
    def trunk(
        self, images: Float[Array, "b h w c"], train: bool, transform: Transform
    ) -> Iterator[tuple[str, Array]]:
        """Yields the outputs of the patch embedding, and of each stage and each merging."""
        _check_patches(images, 4)
        make = self.layers
        x = make.conv(
            images, self.width, 4, 4, padding=0, bias=True, init="torch_default", name="patch"
        )
        x = make.layer_norm(x, name="patch_norm")
        x = transform("stem", x)
        yield "stem", x

        rates = iter(drop_path_rates(self.drop_path, sum(self.stage_sizes)))
        for i, blocks in enumerate(self.stage_sizes):
            if i > 0:
                x = PatchMerging(make, name=f"merge{i}")(x)
                x = transform(f"merge{i}", x)
                yield f"merge{i}", x
            for j in range(blocks):
                block = WindowBlock(
                    self.heads * 2**i,
                    make,
                    shifted=j % 2 == 1,
                    drop_path=next(rates),
                    name=f"stage{i + 1}_block{j + 1}",
                )
                x = self.through(block, x, train)
            x = transform(f"stage{i + 1}", x)
            yield f"stage{i + 1}", x
        yield "pooled", global_pool(make.layer_norm(x, name="norm", wide=True))


def _check_patches(images: Array, patch: int) -> None:
    if images.shape[1] % patch or images.shape[2] % patch:
        raise ValueError(
            f"images of {images.shape[1]} x {images.shape[2]} do not divide into patches of"
            f" {patch} x {patch}: use a multiple of {patch}."
        )


DeiTT = functools.partial(VisionTransformer, width=192, heads=3)
DeiTS = functools.partial(VisionTransformer, width=384, heads=6)
DeiTB = functools.partial(VisionTransformer, width=768, heads=12)
SwinT = functools.partial(SwinTransformer, stage_sizes=(2, 2, 6, 2))
SwinS = functools.partial(SwinTransformer, stage_sizes=(2, 2, 18, 2))
