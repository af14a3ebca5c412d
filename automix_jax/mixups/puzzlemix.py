"""Puzzle Mix: salient cells of both images, moved to where the mask shows them."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from automix_jax.errors import ConfigError
from automix_jax.mixups.base import Lam, Mixed, Per, masked, required
from automix_jax.mixups.grids import upsample
from automix_jax.mixups.labelling import cell_of, make_problem, shares, solve, split
from automix_jax.mixups.pixels import to_unit
from automix_jax.mixups.sampling import lam_or_draw, perm_or_draw

DISTANCE_COST = 0.8  # of moving a cell across the image, in shares of the saliency


def puzzlemix(
    rng: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    *,
    num_classes: int,
    saliency: Float[Array, "b h w"] | None = None,
    alpha: float = 1.0,
    per: Per = "batch",
    blocks: Sequence[int] = (2, 4, 8, 16),
    transport_size: int = 0,
    iterations: int = 100,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.5,),
    lam: Lam | None = None,
    perm: Int[Array, " b"] | None = None,
) -> Mixed:
    """Puzzle Mix (Kim et al., 2020): a mask of cells that shows what is salient in both images.

    Each cell of a grid shows the own image, the partner, or both at half, so that little saliency
    is hidden and the seams are smooth; salient cells that would still be hidden then move to shown
    places nearby. The weight of the own label is the mask's mean: one for each image, near the
    ratio but not equal to it. At ratios 0 and 1 one image is left as it is.

    On sides that the grid does not divide some cells are a pixel wider than others; a cell that
    moves to a wider one repeats its last row or column. No grid is finer than the image.

    Args:
        rng, images, labels, num_classes, lam, perm: see `Mixup`.
        saliency: of the pixels, without a scale: `input_saliency` of the clean images' loss.
        alpha: ratios come from Beta(alpha, alpha).
        per: one ratio for all images of a call, as in the original, or one each.
        blocks: sides of grids, in cells; one is drawn for all images of a call.
        transport_size: side in pixels of the cells that move, where a block has room for several
            (the original: 4 on CIFAR). 0 moves whole blocks, which large images need: the work
            grows with the square of the number of cells.
        iterations: of the search for the mask, see `solve`.
        mean, std: those that the images were normalised by.

    Raises:
        ConfigError: without saliency, or for grids that cannot be.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from automix_jax.mixups import input_saliency, puzzlemix
        >>> images, labels = jax.random.normal(jax.random.key(0), (4, 32, 32, 3)), jnp.arange(4)
        >>> saliency = input_saliency(lambda images: jnp.sin(images).sum(), images)
        >>> mixed = puzzlemix(
        ...     jax.random.key(1), images, labels, num_classes=10, saliency=saliency, blocks=(4,)
        ... )
        >>> mixed.images.shape, mixed.info["lam"].shape
        ((4, 32, 32, 3), (4,))
    """
    saliency = required(
        saliency,
        "puzzlemix needs saliency=..., [B, H, W], for example from"
        " automix_jax.mixups.input_saliency.",
    )
    if not blocks or min(blocks) < 1:
        raise ConfigError(f"blocks of puzzlemix is {blocks!r}: it must be numbers, 1 or more.")
    rng_lam, rng_perm, rng_blocks = jax.random.split(rng, 3)
    lam = lam_or_draw(rng_lam, lam, alpha, per, len(labels)).astype(jnp.float32)
    perm = perm_or_draw(rng_perm, perm, len(labels))
    # A mask is chosen, not computed: no gradient passes through the choice.
    pixels = jax.lax.stop_gradient(to_unit(images, mean, std))
    saliency = jax.lax.stop_gradient(saliency.astype(jnp.float32))
    sides = sorted({min(side, *images.shape[1:3]) for side in blocks})
    decide = functools.partial(_decide, transport_size=transport_size, iterations=iterations)
    branches = [functools.partial(decide, blocks=side) for side in sides]
    drawn = jax.random.randint(rng_blocks, (), 0, len(sides))
    mask, own, partner = jax.lax.switch(drawn, branches, pixels, saliency, perm, lam)
    # The mean of ones may be a rounding off.
    weight = jnp.where(_settled(lam), lam, mask.mean((1, 2, 3)))
    mine, theirs = take(images, jnp.arange(len(perm)), own), take(images, perm, partner)
    return masked(mine, labels, perm, mask, num_classes, lam=weight, partners=theirs)


def _settled(lam: Float[Array, " n"]) -> Bool[Array, " n"]:
    """Where a ratio leaves nothing to decide."""
    return (lam <= 0) | (lam >= 1)


def _decide(
    pixels: Float[Array, "b h w c"],
    saliency: Float[Array, "b h w"],
    perm: Int[Array, " b"],
    lam: Float[Array, " n"],
    *,
    blocks: int,
    transport_size: int,
    iterations: int,
) -> tuple[Float[Array, "b h w 1"], Int[Array, "b h w"], Int[Array, "b h w"]]:
    """The mask, and which pixel of the own image and of the partner comes to each place."""
    labels = solve(make_problem(pixels, saliency, perm, lam, blocks), iterations)
    all_or_nothing = jnp.where(lam > 0, 0, 2).astype(labels.dtype)
    labels = jnp.where(_settled(lam)[:, None, None], all_or_nothing[:, None, None], labels)
    return arrange(labels, saliency, perm, transport_size)


def arrange(
    labels: Int[Array, "b r c"],
    saliency: Float[Array, "b h w"],
    perm: Int[Array, " b"],
    transport_size: int,
) -> tuple[Float[Array, "b h w 1"], Int[Array, "b h w"], Int[Array, "b h w"]]:
    """What follows from the labels of the cells.

    Args:
        labels: 0 where the own image is seen, 1 where both are, 2 where the partner is.
        saliency: of the pixels.
        perm: the partners.
        transport_size: see `puzzlemix`.

    Returns:
        The mask, and which pixel of the own image and of the partner comes to each place, by its
        number in the flattened image.
    """
    size, blocks = saliency.shape[1:], labels.shape[1:]
    grid = tuple(
        cells * split(side, cells, transport_size) for side, cells in zip(size, blocks, strict=True)
    )
    shown = upsample(labels, grid)
    wanted = jnp.concatenate([shown < 2, shown > 0])  # of the own images, of the partners
    value = shares(saliency, grid)
    sources = jnp.split(transport(wanted, jnp.concatenate([value, value[perm]])), 2)
    own, partner = (pixel_sources(cells, size) for cells in sources)
    mask = 1 - upsample(labels, size)[..., None] / 2
    return mask.astype(jnp.float32), own, partner


# -- transport ---------------------------------------------------------------------------------


def transport(wanted: Bool[Array, "n r c"], saliency: Float[Array, "n r c"]) -> Int[Array, "n r c"]:
    """Which cell comes to each place of a grid, by its number in the flattened grid.

    Every cell asks for the wanted place where its saliency, less the cost of its way, is largest;
    a place keeps the best of those who ask, and the others ask for the next best, as long as there
    is something to gain (Kim et al., 2020). So a wanted place always receives one
    cell, its own unless a better one came. Other places, which the mask hides, keep their own.

    Args:
        wanted: the places that the mask shows.
        saliency: of the cells, above 0 and a sum of 1.
    """
    grid = wanted.shape[1:]
    count = grid[0] * grid[1]
    flat = (x.reshape(len(x), count) for x in (wanted, saliency))
    return jax.vmap(functools.partial(_settle, grid=grid))(*flat).reshape(wanted.shape)


def _settle(
    wanted: Bool[Array, " n"], saliency: Float[Array, " n"], *, grid: tuple[int, ...]
) -> Int[Array, " n"]:
    """`transport` of one image."""
    count = len(wanted)
    everyone = jnp.arange(count, dtype=jnp.int32)
    places, costs, rank = (jnp.asarray(table) for table in _ways(grid))

    def unsettled(state):
        rounds, _, asking, _ = state
        return (rounds < max(grid)) & asking.any()

    def ask(state):
        rounds, asked, asking, _ = state
        # Those that lost ask for the nearest wanted place that they have not yet asked for.
        further = jnp.where(wanted & (rank > asked[:, None]), rank, count).min(1)
        asked = jnp.where(asking, further, asked)
        price = costs[everyone, asked] - saliency
        place = jnp.where(price < 0, places[everyone, asked], count)
        best = jnp.full(count + 1, jnp.inf, price.dtype).at[place].min(price)
        cheapest = jnp.where(price == best[place], everyone, count)
        winner = jnp.full(count + 1, count, jnp.int32).at[place].min(cheapest)
        return rounds + 1, asked, (place < count) & (winner[place] != everyone), winner[:count]

    none = jnp.full_like(wanted, count, jnp.int32)
    start = (0, jnp.full_like(none, -1), jnp.ones_like(wanted), none)
    winner = jax.lax.while_loop(unsettled, ask, start)[-1]
    return jnp.where(winner < count, winner, everyone)


@functools.cache
def _ways(grid: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the cells of a grid can go: tables with one row a cell.

    Returns:
        The places by distance [n, n + 1] and the costs of going there; the last column is for
        staying out, place n at an infinite cost. And where each place is in that order [n, n].
    """
    row, column = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    height, width = (max(side - 1, 1) for side in grid)
    # In whole numbers, so that equal distances stay equal and are taken in the places' order.
    down, right = (np.square(at[:, None] - at) for at in (row, column))
    distance = down * width**2 + right * height**2
    places = np.argsort(distance, axis=1, kind="stable")
    squared = np.take_along_axis(distance, places, 1) / (height * width) ** 2
    costs = np.float32(DISTANCE_COST) * squared.astype(np.float32)
    rank = np.argsort(places, axis=1)
    end = ((0, 0), (0, 1))
    places = np.pad(places, end, constant_values=len(row))
    costs = np.pad(costs, end, constant_values=np.inf)
    return places.astype(np.int32), costs, rank.astype(np.int32)


# -- pixels ------------------------------------------------------------------------------------


def pixel_sources(sources: Int[Array, "n r c"], size: tuple[int, ...]) -> Int[Array, "n h w"]:
    """Spells out for pixels which cell comes to each place: numbers in the flattened image."""
    cell = upsample(sources, size)  # [n, H, W]
    cells = jnp.divmod(cell, sources.shape[2])
    row, column = (
        _within(at, side, count, axis)
        for axis, (at, side, count) in enumerate(zip(cells, size, sources.shape[1:], strict=True))
    )
    return row * size[1] + column


def _within(cell: Int[Array, "n h w"], side: int, cells: int, axis: int) -> Int[Array, "n h w"]:
    """The row or column of a cell's pixel that comes to each place, along one axis."""
    here = cell_of(side, cells)
    start = np.searchsorted(here, np.arange(cells + 1))  # the last entry is the side
    offset = np.arange(side) - start[here]
    offset = offset[:, None] if axis == 0 else offset
    begin, end = jnp.asarray(start)[cell], jnp.asarray(start)[cell + 1]
    return jnp.minimum(begin + offset, end - 1)


def take(
    images: Float[Array, "b h w c"], owner: Int[Array, " b"], pixel: Int[Array, "b h w"]
) -> Float[Array, "b h w c"]:
    """Builds images of an owner's pixels, by their numbers in the flattened image."""
    batch, height, width, channels = images.shape
    flat = images.reshape(batch, height * width, channels)
    return flat[owner[:, None, None], pixel]
