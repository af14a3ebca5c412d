"""SuperMix: masks under which a trained network sees every image of a mix."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from automix_jax.mixups.base import Lam, Mixed, required

Predict = Callable[[Array], Array]  # normalised images [B, H, W, C] to logits [B, K]


def supermix(
    rng: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    *,
    num_classes: int,
    predict: Predict | None = None,
    alpha: float = 3.0,
    grid: int = 8,
    sigma: float = 1.0,
    sparsity: float = 25.0,
    iterations: int = 50,
    tolerance: float = 0.7,
    images_per_mix: int = 2,
    lam: Lam | None = None,
    perm: Int[Array, " b"] | None = None,
) -> Mixed:
    """SuperMix (Dabouei et al., 2021): masks that a teacher is asked to see all images through.

    The masks of a mix are the weights of its images at every pixel. Gradient steps move them until
    the classes that the teacher ranks first are those of the images, while its prediction is drawn
    to shares from Dirichlet(alpha, ..., alpha). That takes many passes through the teacher and
    back: SuperMix makes a data set before training rather than a batch during it.

    The classes, and thereby the targets, are those that the teacher predicts for the single images;
    `labels` is not looked at. Beside `lam` (the own share), `perm` and `mask` (of the own image),
    `info` has `success` [B], where the teacher sees all images, and `teacher` [B], the class that
    it predicts for the mix. The authors keep the successes alone, and `teacher` is what their
    students learn in the place of the targets.

    Args:
        rng, images, labels, num_classes, lam, perm: see `Mixup`. A given lam is the own share. The
            partner is by default the next image of the batch, as published; a third image is the
            partner's partner, and so on.
        predict: the teacher, a trained network at inference.
        alpha: of the shares.
        grid: side of the masks in cells, interpolated to pixels: 8 on CIFAR, 16 on ImageNet.
        sigma: of the Gaussian that smooths the gradient, in cells: 1 on CIFAR, 2 on ImageNet.
        sparsity: weight of the mean of mask * (1 - mask), a penalty of blends.
        iterations: steps at most.
        tolerance: the search ends when at most this share of the batch has not succeeded.
        images_per_mix: how many images are in a mix.

    Raises:
        ConfigError: without a teacher.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from automix_jax.mixups.supermix import supermix
        >>> weights = jax.random.normal(jax.random.key(0), (8 * 8 * 3, 10))
        >>> def predict(images):  # in earnest, a trained network
        ...     return images.reshape(len(images), -1) @ weights
        >>> images, labels = jax.random.normal(jax.random.key(1), (6, 8, 8, 3)), jnp.arange(6)
        >>> mixed = supermix(jax.random.key(2), images, labels, num_classes=10, predict=predict)
        >>> mixed.images.shape, mixed.info["success"].shape
        ((6, 8, 8, 3), (6,))
    """
    predict = required(
        predict, "supermix needs predict=, a trained network's function from images to logits."
    )
    perm = jnp.roll(jnp.arange(len(labels)), -1) if perm is None else perm
    members = _members(perm, images_per_mix)  # [B, n]
    shares = _shares(rng, alpha, members.shape, lam)
    own = jax.lax.stop_gradient(images)  # gradients go through the mix, not through the search
    classes = predict(own).argmax(-1)[members]
    targets = (shares[..., None] * jax.nn.one_hot(classes, num_classes)).sum(1)

    def evaluate(logits):
        mask = masks(logits, shares, images.shape[1:3])
        scores = predict(weigh(mask, own[members])).astype(jnp.float32)
        divergence = optax.kl_divergence(jax.nn.log_softmax(scores), targets)
        loss = divergence + sparsity * (mask * (1 - mask)).mean((1, 2, 3, 4))
        return loss.sum(), (loss, scores)

    kernel = smoothing(grid, sigma)
    unsuccessful = math.floor(tolerance * len(labels) + 1e-6)  # 0.7 * 90 is just below 63

    def search_on(search):
        return (search.step <= iterations) & (search.active.sum() > unsuccessful)

    def advance(search):
        logits = descend(search, kernel)
        (_, (loss, scores)), gradient = jax.value_and_grad(evaluate, has_aux=True)(logits)
        # Step 0 moves nothing, it evaluates the start. Success counts from the first real step on.
        active = search.active & ~((search.step > 0) & ranked_first(scores, targets))
        return Search(search.step + 1, logits, active, loss, gradient, scores)

    found = jax.lax.while_loop(search_on, advance, _start(targets, images_per_mix, grid))
    mask = masks(found.logits, shares, images.shape[1:3])
    info = {
        "lam": shares[:, 0],
        "perm": perm,
        "mask": mask[:, 0],
        "success": ~found.active,
        "teacher": found.scores.argmax(-1),
    }
    return Mixed(weigh(mask, images[members]), targets, info)


class Search(NamedTuple):
    """The state of a search for masks.

    Attributes:
        step: how many evaluations there were.
        logits: [B, n, grid, grid], of the masks.
        active: [B], which mixes have not succeeded.
        loss: [B], at the logits.
        gradient: [B, n, grid, grid], of the loss.
        scores: [B, K], the teacher's logits.
    """

    step: Int[Array, ""]
    logits: Float[Array, "b n g g"]
    active: Bool[Array, " b"]
    loss: Float[Array, " b"]
    gradient: Float[Array, "b n g g"]
    scores: Float[Array, "b k"]


def _start(targets: Float[Array, "b k"], count: int, grid: int) -> Search:
    # Made of the targets, since `shard_map` wants to see at the start of a loop what differs
    # between devices.
    zeros = 0 * targets.sum(1)  # [B]
    flat = jnp.broadcast_to(zeros[:, None, None, None], (len(targets), count, grid, grid))
    return Search(jnp.zeros((), jnp.int32), flat, zeros == 0, zeros, flat, 0 * targets)


def descend(search: Search, kernel: Float[Array, "g g"]) -> Float[Array, "b n g g"]:
    """The logits after a step along the smoothed gradient, to where the loss would be 0 if linear.

    Mixes that have succeeded stay.
    """
    along = jnp.einsum("ij,bnjk,lk->bnil", kernel, search.gradient, kernel, precision="highest")
    slope = (search.gradient * along).sum((1, 2, 3))
    length = jnp.clip(search.loss / (slope + 1e-10), 1e-4, 2000)
    length = jnp.where(search.active, length, 0)
    return search.logits - length[:, None, None, None] * along


def smoothing(grid: int, sigma: float) -> Float[Array, "{grid} {grid}"]:
    """The matrix that smooths a column of cells by a Gaussian, cut to floor(5 sigma) cells.

    Outside of the grid there are zeros. As published: an even number of cells reaches one further
    down and right, and the deviation is a fifth of that number.
    """
    size = max(math.floor(5 * sigma), 1)
    offset = np.arange(size) - (size - 1) / 2
    weights = np.exp(-0.5 * np.square(5 * offset / size))
    tap = np.arange(grid) - np.arange(grid)[:, None] + (size - 1) // 2  # [to, from]
    inside = (tap >= 0) & (tap < size)
    matrix = np.where(inside, weights[np.clip(tap, 0, size - 1)] / weights.sum(), 0)
    return jnp.asarray(matrix, jnp.float32)


def masks(
    logits: Float[Array, "b n g g"], shares: Float[Array, "b n"], size: tuple[int, ...]
) -> Float[Array, "b n h w 1"]:
    """The weights of n images at every pixel; an image whose share is 1 is alone."""
    fine = jax.image.resize(logits, (*logits.shape[:2], *size), "linear", antialias=False)
    # sigmoid / (sum of sigmoids), also where these are too small for float32.
    weights = jax.nn.softmax(jax.nn.log_sigmoid(fine), 1)
    alone = (shares == 1).any(1)[:, None, None, None]
    return jnp.where(alone, shares[..., None, None], weights)[..., None]


def weigh(
    mask: Float[Array, "b n h w 1"], images: Float[Array, "b n h w c"]
) -> Float[Array, "b h w c"]:
    """Sums the images of each mix, weighted, in their dtype."""
    return (mask * images).sum(1).astype(images.dtype)


def ranked_first(scores: Float[Array, "b k"], targets: Float[Array, "b k"]) -> Bool[Array, " b"]:
    """Whether every class with a share scores higher than all classes without."""
    has_share = targets > 0
    lowest = jnp.where(has_share, scores, jnp.inf).min(-1)
    return lowest > jnp.where(has_share, -jnp.inf, scores).max(-1)


def _members(perm: Int[Array, " b"], count: int) -> Int[Array, "b {count}"]:
    """Which images are in each mix: the own one, its partner, the partner's partner."""
    members = [jnp.arange(len(perm))]
    for _ in range(count - 1):
        members.append(perm[members[-1]])
    return jnp.stack(members, 1)


def _shares(
    rng: PRNGKeyArray, alpha: float, shape: tuple[int, ...], lam: Lam | None
) -> Float[Array, "b n"]:
    """Draws from Dirichlet(alpha, ..., alpha), given the first of each where lam is given."""
    batch, count = shape
    shares = jax.random.dirichlet(rng, jnp.full(count, alpha), (batch,))
    if lam is None:
        return shares
    own = jnp.broadcast_to(jnp.asarray(lam), (batch,))[:, None]
    others = shares[:, 1:] / shares[:, 1:].sum(1, keepdims=True)
    return jnp.concatenate([own, (1 - own) * others], 1)
