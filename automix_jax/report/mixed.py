"""Accuracy on mixed images: whether a network sees both of the images that a mix shows.

The top-1 accuracy counts mixed images whose first class is that of one of the two; the top-2
accuracy those whose first two classes are the two (Fig. 4 of the paper).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, UInt8

from automix_jax.automix import AutoMix
from automix_jax.data.augment import normalize
from automix_jax.data.progress import Advance
from automix_jax.errors import ConfigError, DataError, NumbersError
from automix_jax.evaluate.network import Network
from automix_jax.mixblock import mix_images, predict_mask
from automix_jax.mixups.pixels import to_unit
from automix_jax.mixups.sampling import sample_lam
from automix_jax.report import mixes
from automix_jax.train.build import named_key
from automix_jax.train.trained import Restored

RATIOS = tuple(i / 10 for i in range(11))
ALL = ("all",)
_NO_PAIRS = {
    "comixup": "chooses its own ratios and partners",
    "augmix": "no partner",
}
_SLOW = ("supermix",)  # a search through the network, fifty times the work of all others


class Mix(NamedTuple):
    """Mixed images of a batch of pairs.

    Attributes:
        pixels: [B, H, W, C] in [0, 1].
        masks: [B, H, W, 1], the weight of the own image.
        weights: [B], of the own label.
    """

    pixels: Any  # `Any`, since JAX rebuilds trees with other things than arrays
    masks: Any
    weights: Any


# From the chain of images [B + 1, H, W, C], whose pairs are neighbours, their labels [B + 1] and
# the pairs' numbers [B], to a function of the ratios [B].
Prepare = Callable[[PyTree, Array, Array, Array], Callable[[Array], Mix]]


class Scores(NamedTuple):
    """What is counted of mixed images, one number each.

    Attributes:
        top1, top2: whether the first class, and the first two, are those of the pair.
        om_acc_mix: what OpenMixup logs in training under the name acc_mix: the weight of the
            heavier label if that class is first, and the weight of the other if it is second.
        label_weight: of the own image's label.
        mask_mean, mask_std: of the mask's pixels.
        finite: whether all logits are.
    """

    top1: Any
    top2: Any
    om_acc_mix: Any
    label_weight: Any
    mask_mean: Any
    mask_std: Any
    finite: Any


def settle(asked: Sequence[str] | None, run: Restored) -> tuple[list[str], dict[str, list[str]]]:
    """Which methods' mixed images are classified; and which cannot be, or are not, by the reason.

    Args:
        asked: names in their order; None for those that take minutes on a CPU, `ALL` for all.
        run: whose networks the methods look at.

    Raises:
        ConfigError: for a name that is not known, or that is asked for and cannot be measured.
    """
    everything = asked is None or tuple(asked) == ALL
    names, others = mixes.settle(None if everything else asked, run)
    reasons = dict(_NO_PAIRS)
    if asked is None:
        reasons |= dict.fromkeys(_SLOW, "slow, give --methods=all")
    measured = []
    for name in names:
        if name not in reasons:
            measured.append(name)
        elif everything:
            others.setdefault(reasons[name], []).append(name)
        else:
            raise ConfigError(
                f"{name} cannot be measured ({reasons[name]}): take it out of --methods."
            )
    return measured, others


def mixed_accuracy(
    run: Restored,
    network: Network,
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, " n"],
    methods: Sequence[str],
    *,
    ratios: Sequence[float] = RATIOS,
    alpha: float,
    seed: int = 0,
    batch: int = 256,
    advance: Advance = lambda count: None,
) -> dict[str, Any]:
    """How well a network recognises what each method mixes, in percent.

    The images form a circle in a random order, and each is mixed with the next: a permutation
    without fixed points. A method's draws depend on the seed and the pair alone, so that neither
    the batch nor the ratio changes them.

    Args:
        run: gives AutoMix, and its student is the network that other methods look at.
        network: classifies the mixed images.
        images: test images as stored, of the shape that the networks read.
        labels: their classes.
        methods: see `settle`.
        ratios: weights of the own image, each for all pairs.
        alpha: of Beta(alpha, alpha), from which each pair draws a ratio besides.
        seed: of the order and of all draws.
        batch: pairs at once.
        advance: is told of pairs, N for each method.

    Returns:
        "pairs": N; "same_class": how many of them have one class, so that their top-2 accuracy is
        not defined: they count for the top-1 accuracy alone. "alpha" and "seed" as given. And
        "methods": for each "lam", the ratios, and at each "top1", "top2", "om_acc_mix",
        "label_weight", the mean weight of the own label, "mask_deviation", the mean distance of a
        mask's mean from the ratio, and "mask_std", the mean standard deviation of a mask's pixels,
        which is 0 for a plain blend. "beta" holds the same for the drawn ratios.

    Raises:
        DataError: if there are fewer than two images, or all pairs have one class.
        NumbersError: if the network's logits are not finite.
    """
    count = len(labels)
    if count < 2:
        raise DataError(f"there is {count} test image: mixing takes two or more.")
    chain = np.random.default_rng(seed).permutation(count)
    own, partner = labels[chain], labels[np.roll(chain, -1)]
    unlike = own != partner
    if not unlike.any():
        raise DataError("all pairs of test images have one class: take more images.")
    drawn = _beta(named_key(seed, "ratios"), jnp.arange(count), alpha)
    lam = np.stack([*(np.full(count, ratio, np.float32) for ratio in ratios), np.asarray(drawn)])
    found = {}
    for name in methods:
        scores = _measure(name, run, network, (images, labels), chain, lam, seed, batch, advance)
        found[name] = _summary(scores, lam, ratios, unlike)
    return {
        "pairs": count,
        "same_class": int(count - unlike.sum()),
        "alpha": float(alpha),
        "seed": seed,
        "methods": found,
    }


def _beta(rng: PRNGKeyArray, pairs: Int[Array, " n"], alpha: float) -> Float[Array, " n"]:
    """A ratio for each pair."""
    return jax.vmap(lambda pair: sample_lam(jax.random.fold_in(rng, pair), alpha))(pairs)


def _measure(
    name: str,
    run: Restored,
    network: Network,
    data: tuple[np.ndarray, np.ndarray],
    chain: Int[np.ndarray, " n"],
    lam: Float[np.ndarray, "l n"],
    seed: int,
    batch: int,
    advance: Advance,
) -> Scores:
    """The scores [L, N] of the pairs along a chain at L ratios, compiled once."""
    prepare = _automix(run) if name == "automix" else _plain(name, run, seed)

    @jax.jit
    def measure(state, variables, images, labels, pairs, lam):
        mix = prepare(state, images, labels, pairs)

        def score(lam: Float[Array, " b"]) -> Scores:
            mixed = mix(lam)
            logits, _ = network(mixed.pixels, variables)
            return _score(logits, labels, mixed)

        return jax.lax.map(score, lam)

    state = {
        "student": mixes.student(run),
        "encoder": dict(zip(("params", "batch_stats"), run.state.encoder, strict=True)),
        "mixblock": {"params": run.state.params.get("mixblock", {})},
    }
    images, labels = data
    count = len(chain)
    batch = min(batch, count)
    parts = []
    for start in range(0, count, batch):
        pairs = np.arange(start, start + batch + 1) % count  # the last batch begins anew
        made = measure(
            state,
            network.variables,
            images[chain[pairs]],
            labels[chain[pairs]],
            pairs[:-1],
            lam[:, pairs[:-1]],
        )
        valid = min(batch, count - start)
        parts.append(Scores(*(np.asarray(values)[:, :valid] for values in made)))
        advance(valid)
    scores = Scores(*(np.concatenate(column, axis=1) for column in zip(*parts, strict=True)))
    if not scores.finite.all():
        raise NumbersError(
            f"the network's logits are not finite for {(~scores.finite).sum()} images that {name}"
            " has mixed: it cannot be judged."
        )
    return scores


def _plain(name: str, run: Restored, seed: int) -> Prepare:
    """A method of the registry, which mixes each pair by itself."""
    mean, std = run.config.data.mean, run.config.data.std
    method, classes = mixes.make_method(name, mean, std), run.facts.num_classes
    rng = named_key(seed, name)

    def prepare(state, images, labels, pairs):
        x = normalize(images, mean, std)
        seen = mixes.look(name, run, state["student"], x, labels)
        functions = {key: value for key, value in seen.items() if callable(value)}
        maps = {key: value for key, value in seen.items() if not callable(value)}
        x, labels, maps = jax.tree.map(_paired, (x, labels, maps))  # [B, 2, ...]

        def mix_pair(pair, x, labels, maps, lam):
            key, swapped = jax.random.fold_in(rng, pair), jnp.array([1, 0])
            mixed = method(
                key, x, labels, num_classes=classes, lam=lam, perm=swapped, **maps, **functions
            )
            made = (mixed.images, mixes.mask_of(mixed), mixed.info["lam"])
            return jax.tree.map(lambda value: value[0], made)

        def mix(lam):
            mixed, masks, weights = jax.vmap(mix_pair)(pairs, x, labels, maps, lam)
            return Mix(to_unit(mixed, mean, std), masks, weights)

        return mix

    return prepare


def _automix(run: Restored) -> Prepare:
    """The run's MixBlock; its encoder evaluates, so that a mask depends on its pair alone."""
    objective, prepared = run.experiment.objective, run.experiment.normalize
    assert isinstance(objective, AutoMix)  # or it could not be drawn
    model, layer, mixblock = objective.model, objective.layer, objective.mixblock

    def prepare(state, images, labels, pairs):
        del labels, pairs
        _, features = model.apply(state["encoder"], prepared(images), stop_at=layer)
        projections = mixblock.apply(state["mixblock"], features[layer], method="project")
        following = jnp.roll(jnp.arange(len(images)), -1)
        pixels = images.astype(jnp.float32) / 255

        def mix(lam):
            # The last image is here as a partner only.
            weights = jnp.append(lam, lam[-1])
            mask = predict_mask(
                projections, weights, following, images.shape[1:3], mixblock.upsample
            )
            mixed = mix_images(pixels, mask, following)
            return Mix(mixed[:-1], mask[:-1], lam)

        return mix

    return prepare


def _paired(chain: Array) -> Array:
    """Each but the last with the next: [B + 1, ...] to [B, 2, ...]."""
    return jnp.stack([chain[:-1], chain[1:]], axis=1)


def _score(logits: Float[Array, "b k"], labels: Int[Array, " _"], mixed: Mix) -> Scores:
    """Compares the first two classes with those of the pairs along a chain of labels [B + 1]."""
    first, second = jax.lax.top_k(logits, 2)[1].T
    own, partner = labels[:-1], labels[1:]

    def are(one: Array, other: Array) -> Bool[Array, " b"]:
        return (first == one) & (second == other)

    heavier = mixed.weights > 0.5
    most = jnp.where(heavier, mixed.weights, 1 - mixed.weights)
    first_right = first == jnp.where(heavier, own, partner)
    second_right = second == jnp.where(heavier, partner, own)
    return Scores(
        top1=(first == own) | (first == partner),
        top2=are(own, partner) | are(partner, own),
        om_acc_mix=most * first_right + (1 - most) * second_right,
        label_weight=mixed.weights,
        mask_mean=mixed.masks.mean((1, 2, 3)),
        mask_std=mixed.masks.std((1, 2, 3)),
        finite=jnp.isfinite(logits).all(-1),
    )


def _summary(
    scores: Scores,
    lam: Float[np.ndarray, "l n"],
    ratios: Sequence[float],
    unlike: Bool[np.ndarray, " n"],
) -> dict[str, Any]:
    """Means over the pairs, those at the ratios by themselves and those at the drawn ones."""
    means = {
        "top1": 100 * scores.top1.mean(1),
        "top2": 100 * scores.top2[:, unlike].mean(1),
        "om_acc_mix": 100 * scores.om_acc_mix.mean(1, dtype=np.float64),
        "label_weight": scores.label_weight.mean(1, dtype=np.float64),
        "mask_deviation": np.abs(scores.mask_mean - lam).mean(1, dtype=np.float64),
        "mask_std": scores.mask_std.mean(1, dtype=np.float64),
    }
    columns = {name: values.tolist() for name, values in means.items()}
    return {
        "lam": list(ratios),
        **{name: values[:-1] for name, values in columns.items()},
        "beta": {name: values[-1] for name, values in columns.items()},
    }
