"""Adversarial images within a maximum norm: the fast gradient sign method, and projected gradients.

An attack moves the pixels in [0, 1] of an image such that the cross entropy with its true label
grows, none of them by more than epsilon: Goodfellow et al. (2015), "Explaining and Harnessing
Adversarial Examples", in one step, and Madry et al. (2018), "Towards Deep Learning Models Resistant
to Adversarial Attacks", in several. Normalisation is part of the network that is attacked, and the
pixels that come out are not rounded to 8 bits.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, UInt8

from automix_jax.data.progress import Advance
from automix_jax.errors import DataError, NumbersError
from automix_jax.evaluate.network import Network, full_batches

Classify = Callable[[Array], Array]  # pixels [B, H, W, C] in [0, 1] -> logits [B, K]


@dataclasses.dataclass(frozen=True)
class Attack:
    """Steps along the gradient's sign, within a distance of the image.

    Attributes:
        epsilon: the distance, of pixels in [0, 1].
        step_size: what a step changes each pixel by.
        steps: how many.
        random: whether it starts anywhere within the distance, and not from the image itself.
    """

    epsilon: float
    step_size: float
    steps: int = 1
    random: bool = False


def _fgsm(levels: int) -> Attack:
    return Attack(levels / 255, levels / 255)


def _pgd(levels: int, steps: int, step_size: float) -> Attack:
    return Attack(levels / 255, step_size / 255, steps, random=True)


# Numbers in names are of steps, and of levels of 255.
ATTACKS: Mapping[str, Attack] = {
    "fgsm_8": _fgsm(8),
    "pgd10_8": _pgd(8, 10, 2.0),
    "pgd20_8": _pgd(8, 20, 2.0),
    "pgd20_4": _pgd(4, 20, 2.0),
}
_LEVELS = (1, 2, 4, 8, 16)
# Of several distances: at each, ten steps go as far in proportion as those of 2 levels do at 8.
CURVE: Mapping[str, Attack] = {f"fgsm_{n}": _fgsm(n) for n in _LEVELS} | {
    f"pgd10_{n}": _pgd(n, 10, n / 4) for n in _LEVELS
}


# -- one batch ---------------------------------------------------------------------------------


def fgsm(
    predict: Classify,
    pixels: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    epsilon: float = 8 / 255,
) -> Float[Array, "b h w c"]:
    """The fast gradient sign method: one step of epsilon.

    Args:
        predict: the network in evaluation mode, its normalisation included.
        pixels: [B, H, W, C] in [0, 1].
        labels: [B], true classes.
        epsilon: how far a pixel may be moved.

    Returns:
        Pixels in [0, 1]; those whose gradient is 0 stay as they are.
    """
    return pgd(predict, pixels, labels, epsilon=epsilon, step_size=epsilon, steps=1)


def pgd(
    predict: Classify,
    pixels: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    *,
    epsilon: float = 8 / 255,
    step_size: float = 2 / 255,
    steps: int = 10,
    start: Float[Array, "b h w c"] | None = None,
) -> Float[Array, "b h w c"]:
    """Projected gradient ascent; after each step pixels go back to within epsilon, and to [0, 1].

    Args:
        predict: the network in evaluation mode, its normalisation included. A step is compiled once
            for each such function, and steps are taken one by one: XLA runs the convolutions of a
            loop slowly on CPUs.
        pixels: [B, H, W, C] in [0, 1].
        labels: [B], true classes.
        epsilon: how far a pixel may be moved.
        step_size: what a step changes it by.
        steps: how many; the images after the last are returned, whether they are worst or not.
        start: what is added to the pixels first, from -epsilon to epsilon, as `random_start`
            draws it; none by default.

    Returns:
        Pixels in [0, 1].
    """
    step = functools.partial(_compiled_step, predict)
    attack = Attack(epsilon, step_size, steps)
    return _ascend(step, pixels, labels, attack, jnp.zeros_like(pixels) if start is None else start)


def random_start(
    rng: PRNGKeyArray, indices: Int[Array, " b"], shape: Sequence[int], epsilon: float
) -> Float[Array, "b h w c"]:
    """Draws for each image, from its index alone, where an attack starts.

    Args:
        rng: a key.
        indices: [B] of the images in their data set.
        shape: (H, W, C).
        epsilon: each pixel is moved by -epsilon to epsilon, uniformly.
    """

    def draw(index: Array) -> Array:
        key = jax.random.fold_in(rng, index)
        return jax.random.uniform(key, tuple(shape), minval=-epsilon, maxval=epsilon)

    return jax.vmap(draw)(indices)


def _ascend(
    step: Callable[..., Array], pixels: Array, labels: Array, attack: Attack, start: Array
) -> Array:
    moved = jnp.clip(pixels + start, 0, 1)
    for _ in range(attack.steps):
        moved = step(moved, pixels, labels, attack.epsilon, attack.step_size)
    return moved


def _step(
    predict: Classify,
    moved: Array,
    pixels: Array,
    labels: Array,
    epsilon: float | Array,
    step_size: float | Array,
) -> Array:
    gradient = jax.grad(lambda x: _loss(predict(x), labels))(moved)
    moved = moved + step_size * jnp.sign(gradient)
    return jnp.clip(jnp.clip(moved, pixels - epsilon, pixels + epsilon), 0, 1)


_compiled_step = jax.jit(_step, static_argnums=0)


def _loss(logits: Float[Array, "b k"], labels: Int[Array, " b"]) -> Float[Array, ""]:
    """The sum over images of log sum exp(logit - own logit), over all classes but the own.

    Cross entropy is log(1 + exp(x)) of an image's x: its gradient has the same signs, but is lost
    to rounding where the network is sure, which would look like robustness. Of a sum, each image's
    gradient is its own, whatever batch it is in.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)
    is_own = jax.nn.one_hot(labels, logits.shape[1], dtype=bool)
    return jax.nn.logsumexp(jnp.where(is_own, -jnp.inf, logits - own), axis=1).sum()


# -- a data set --------------------------------------------------------------------------------


def attack_errors(
    network: Network,
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, " n"],
    batch_size: int,
    *,
    attacks: Mapping[str, Attack] = ATTACKS,
    seed: int = 0,
    numbers: Int[np.ndarray, " n"] | None = None,
    advance: Advance = lambda count: None,
) -> dict[str, float]:
    """The share of images that the network takes for another class, under each of some attacks.

    Each attack of an image starts from the same draw, which depends on the seed and on the image's
    index, so that no number depends on the batch size.

    Args:
        network: what is attacked.
        images: as stored; at least one.
        labels: true classes.
        batch_size: of the images that are attacked together.
        attacks: by name.
        seed: of random starts.
        numbers: of the images in their data set; by default they are all of it, in its order.
        advance: is told of images that are done.

    Returns:
        Errors in percent: "clean", then those of the attacks by name.

    Raises:
        DataError: if there are no images.
        NumbersError: if the network's logits are not finite.
    """
    if not len(images):
        raise DataError("there are no images to attack: give at least one.")

    # Compiled once for all attacks, whose sizes are arguments.
    @jax.jit
    def step(variables, moved, pixels, labels, epsilon, step_size):
        predict = functools.partial(_logits, network, variables)
        return _step(predict, moved, pixels, labels, epsilon, step_size)

    @jax.jit
    def judge(variables, pixels, labels):
        logits = _logits(network, variables, pixels)
        return logits.argmax(-1) != labels, jnp.isfinite(logits).all(-1)

    @jax.jit
    def prepare(images, indices):
        draw = random_start(jax.random.key(seed), indices, images.shape[1:], 1.0)
        return images.astype(jnp.float32) / 255, draw

    variables = jax.device_put(network.variables)
    take_step = functools.partial(step, variables)
    wrong = dict.fromkeys(("clean", *attacks), 0)
    numbers = np.arange(len(images)) if numbers is None else numbers
    parts = (full_batches(x, batch_size) for x in (images, labels, numbers))
    for (batch, count), (own, _), (indices, _) in zip(*parts, strict=True):
        pixels, draw = prepare(batch, indices)
        own = jnp.asarray(own)
        for name in wrong:
            moved = pixels
            if name != "clean":
                attack = attacks[name]
                start = attack.epsilon * draw if attack.random else jnp.zeros_like(draw)
                moved = _ascend(take_step, pixels, own, attack, start)
            found, finite = (x[:count] for x in jax.device_get(judge(variables, moved, own)))
            if not finite.all():
                raise NumbersError(
                    f"the network's logits are not finite ({name}): its errors cannot be measured."
                )
            wrong[name] += int(found.sum())
        advance(count)
    return {name: 100 * number / len(images) for name, number in wrong.items()}


def _logits(network: Network, variables: PyTree, pixels: Array) -> Array:
    return network(pixels, variables)[0]


def error_curve(errors: Mapping[str, float]) -> dict[str, list[float]]:
    """Puts errors in order of their distance.

    Args:
        errors: of `attack_errors` of all attacks of `CURVE`, in percent.

    Returns:
        "epsilon" in levels of 255, from 0, and for each the errors "fgsm" and "pgd10".
    """
    return {"epsilon": [0.0, *map(float, _LEVELS)]} | {
        kind: [errors["clean"], *(errors[f"{kind}_{n}"] for n in _LEVELS)]
        for kind in ("fgsm", "pgd10")
    }
