"""Co-Mixup: collages of salient parts, made jointly for a whole group of images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from automix_jax.errors import ConfigError
from automix_jax.mixups.base import Lam, Mixed, required
from automix_jax.mixups.grids import upsample
from automix_jax.mixups.labelling import cell_of, shares
from automix_jax.mixups.submodular import Labelling, solve

ETA = 0.05  # weight of the prior, of a grid of one cell
OMEGA = 0.001  # weight of the distances between peaks in the compatibility of images
STARTS = 4  # random labellings to solve from, side by side
PEAK = 8  # pixels across of the window of highest saliency


def comixup(
    rng: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    *,
    num_classes: int,
    saliency: Float[Array, "b h w"] | None = None,
    blocks: int = 4,
    group: int = 20,
    alpha: float = 2.0,
    lam: Lam | None = None,
    perm: Int[Array, " b"] | None = None,
) -> Mixed:
    """Co-Mixup (Kim et al., 2021): images become collages of salient cells of a group's images.

    All collages of a group are made at once: what is salient shows, in few pieces, and no image
    shows in many of them; see `submodular.solve`. A target weighs each image by what shows of it.
    A collage need not contain the image in whose place it stands. A given ratio or pairing is not
    used. An image that is alone in its group stays as it is.

    On sides that the grid does not divide some cells are a pixel wider than others. No grid is
    finer than the image.

    Args:
        rng, images, labels, num_classes, lam, perm: see `Mixup`.
        saliency: of the pixels, without a scale: `input_saliency` of the clean images' loss.
        blocks: cells along each side of the grid.
        group: how many consecutive images are mixed with each other; what is left of the batch is
            a smaller group.
        alpha: how much of each image a group prefers to show is drawn from Dirichlet(alpha, ...).

    Returns:
        The collages. Their `info` has `lam` and `mask` of the image in the same place; `weights`
        [B, B], the share of every image of the batch in every collage; and as `perm` the image with
        the largest share beside that in the same place, which stands for itself where there is no
        other.

    Raises:
        ConfigError: without saliency, or for groups or grids that cannot be.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from automix_jax.mixups import comixup
        >>> images, labels = jnp.ones((8, 32, 32, 3)), jnp.arange(8)
        >>> saliency = jax.random.uniform(jax.random.key(1), (8, 32, 32))
        >>> mixed = comixup(jax.random.key(0), images, labels, num_classes=10, saliency=saliency)
        >>> mixed.targets.shape, mixed.info["weights"].shape
        ((8, 10), (8, 8))
    """
    del lam, perm
    saliency = required(
        saliency,
        "comixup needs saliency=..., [B, H, W], for example from"
        " automix_jax.mixups.input_saliency.",
    )
    for name, value in (("blocks", blocks), ("group", group)):
        if value < 1:
            raise ConfigError(f"{name} of comixup is {value}: it must be 1 or more.")
    # The labels are chosen, not computed: no gradient passes through the choice.
    saliency = jax.lax.stop_gradient(saliency.astype(jnp.float32))
    labelling = label_batch(rng, saliency, blocks, group, alpha)
    size = images.shape[1:3]
    weights = weigh(labelling, size)
    place = jnp.arange(len(labels))
    others = jnp.where(place[:, None] == place, 0, weights)
    own = (labelling == place[:, None, None, None]).mean(-1)  # [B, r, c]
    info = {
        "lam": jnp.diagonal(weights),
        "perm": jnp.where(others.any(1), jnp.argmax(others, 1), place),
        "mask": upsample(own, size)[..., None],
        "weights": weights,
    }
    classes = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    targets = jnp.matmul(weights, classes, precision="highest")
    return Mixed(collage(images, labelling), targets, info)


# -- from labels to images and weights ---------------------------------------------------------


def collage(
    images: Float[Array, "b h w channels"], labelling: Labelling
) -> Float[Array, "b h w channels"]:
    """Shows in each cell its two images, half each, in the dtype of the images."""
    rows, columns = jnp.arange(images.shape[1])[:, None], jnp.arange(images.shape[2])
    first, second = (
        images[upsample(labelling[..., k], images.shape[1:3]), rows, columns].astype(jnp.float32)
        for k in (0, 1)
    )
    return ((first + second) / 2).astype(images.dtype)


def weigh(labelling: Labelling, size: tuple[int, ...]) -> Float[Array, "b b"]:
    """The share of every image (second axis) in every collage (first axis), by pixels."""
    rows, columns = (
        np.bincount(cell_of(side, cells))
        for side, cells in zip(size, labelling.shape[1:3], strict=True)
    )
    halves = np.outer(rows, columns)[..., None] / 2  # [r, c, 1] pixels
    batch = len(labelling)
    outputs = jnp.arange(batch)[:, None, None, None]
    # Sums of halves, and so exact, as is a share of 1.
    pixels = jnp.zeros((batch, batch), jnp.float32).at[outputs, labelling].add(halves)
    return pixels / pixels.sum(1, keepdims=True)


# -- from saliency to labels -------------------------------------------------------------------


def label_batch(
    rng: PRNGKeyArray, saliency: Float[Array, "b h w"], blocks: int, group: int, alpha: float
) -> Labelling:
    """Labels the cells of all collages with images' numbers in the batch; see `comixup`."""
    batch, height, width = saliency.shape
    grid = (min(blocks, height), min(blocks, width))
    whole = batch - batch % group
    size = np.where(np.arange(batch) < whole, group, batch - whole)  # of each image's group
    rng_liking, rng_start = jax.random.split(rng)
    liking = jax.random.loggamma(rng_liking, alpha, (batch,), jnp.float32)
    shape = (batch, STARTS, *grid)
    starts = jax.random.randint(rng_start, shape, 0, size[:, None, None, None])
    problem = (shares(saliency, grid), peaks(saliency), liking, starts)
    labellings = []
    if whole:
        labellings += [label_groups(*(x[:whole] for x in problem), size=group)]
    if whole < batch:
        labellings += [whole + label_groups(*(x[whole:] for x in problem), size=batch - whole)]
    return jnp.concatenate(labellings)


def label_groups(
    shown: Float[Array, "b r c"],
    peak: Int[Array, "b 2"],
    liking: Float[Array, " b"],
    starts: Int[Array, "b s r c"],
    *,
    size: int,
) -> Labelling:
    """Labels the cells of the collages of groups of one size, side by side.

    Args:
        shown: saliency of the images' cells, a sum of 1.
        peak: of the images.
        liking: for the images, see `costs`.
        starts: random labels, numbers in a group.
        size: of the groups.
    """
    count = len(shown) // size

    def label(shown: Array, peak: Array, liking: Array, starts: Array) -> Labelling:
        return solve(jnp.swapaxes(starts, 0, 1), costs(shown, liking), compatibility(peak))

    grouped = (x.reshape(count, size, *x.shape[1:]) for x in (shown, peak, liking, starts))
    labelling = jax.vmap(label)(*grouped)  # [groups, o, r, c, 2]
    first = size * jnp.arange(count)
    return (labelling + first[:, None, None, None, None]).reshape(-1, *labelling.shape[2:])


def costs(shown: Float[Array, "i r c"], liking: Float[Array, " i"]) -> Float[Array, "i r c"]:
    """What it costs to show an image in a cell.

    Args:
        shown: saliency of the images' cells, a sum of 1.
        liking: logarithms of gamma variates, so that normalised they are Dirichlet's.
    """
    prior = jnp.log(jax.nn.softmax(liking) + 1e-8)
    return -shown - ETA / shown[0].size * prior[:, None, None]


def peaks(saliency: Float[Array, "b h w"]) -> Int[Array, "b 2"]:
    """The row and the column of the window where most is salient, by its top left pixel."""
    sums = saliency
    for axis in (1, 2):
        window = min(PEAK, saliency.shape[axis])
        stop = saliency.shape[axis] - window + 1
        shifted = [jax.lax.slice_in_dim(sums, i, stop + i, axis=axis) for i in range(window)]
        sums = functools.reduce(jnp.add, shifted)
    highest = jnp.argmax(sums.reshape(len(sums), -1), 1)
    return jnp.stack(jnp.unravel_index(highest, sums.shape[1:]), -1)


def compatibility(peak: Int[Array, "i 2"]) -> Float[Array, "i i"]:
    """How much one image counts against another: itself, and a little those that peak elsewhere."""
    distance = jnp.abs(peak[:, None] - peak).sum(-1)
    elsewhere = len(peak) * distance / jnp.maximum(distance.sum(), 1)
    return (1 - OMEGA) * jnp.eye(len(peak)) + OMEGA * elsewhere
