"""Top-1 accuracy and cross entropy of every head of a network on held-out images."""

import math
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, UInt8

from automix_jax.models.backbone import BatchNormBackbone
from automix_jax.models.classifier import Classifier

Network = tuple[PyTree, PyTree]  # parameters and running statistics
TestBatch = tuple[Array, Array, Array]  # images [b, H, W, C], labels [b], which of them count [b]


def make_evaluate(
    model: Classifier, normalize: Callable[[Array], Array]
) -> Callable[[Mapping[str, Network], Iterable[TestBatch]], dict[str, float]]:
    """Returns a function from networks by name and batches of images as stored to metrics.

    The metrics are "accuracy_NETWORK_HEAD" in percent and "loss_NETWORK_HEAD", means over all
    images that count, and "images", how many these are.
    """

    @jax.jit
    def evaluate_batch(
        networks: dict[str, Network],
        images: UInt8[Array, "b h w c"],
        labels: Int[Array, " b"],
        valid: Bool[Array, " b"],
    ) -> dict[str, Float[Array, ""]]:
        images = normalize(images)
        sums = {"images": valid.sum(dtype=jnp.float32)}
        for name, (params, stats) in networks.items():
            logits, _ = model.apply({"params": params, "batch_stats": stats}, images)
            for head in model.heads:
                right = logits[head].argmax(-1) == labels
                loss = optax.softmax_cross_entropy_with_integer_labels(logits[head], labels)
                sums[f"accuracy_{name}_{head}"] = jnp.sum(100.0 * right, where=valid)
                sums[f"loss_{name}_{head}"] = jnp.sum(loss, where=valid)
        return sums

    def evaluate(networks: Mapping[str, Network], batches: Iterable[TestBatch]) -> dict[str, float]:
        sums = [evaluate_batch(dict(networks), *batch) for batch in batches]
        total = {name: math.fsum(float(part[name]) for part in sums) for name in sums[0]}
        count = total.pop("images")
        return {name: value / count for name, value in total.items()} | {"images": count}

    return evaluate


def make_recalibrate(
    model: Classifier, preprocess: Callable[[PRNGKeyArray, Array], Array]
) -> Callable[[PyTree, PyTree, Iterable[Array], PRNGKeyArray], PyTree]:
    """Returns a function that estimates batch-norm statistics afresh for given parameters.

    A teacher that stops at MixBlock's layer has seen clean images only up to there, and an average
    of parameters was never run at all: their running statistics fit no network that is evaluated.
    A network without batch norm keeps what it has, and reads no images.

    The function maps (params, stats, batches of training images [B, H, W, C], key) to the mean
    statistics of these batches, augmented as in training.
    """
    if not isinstance(model.backbone, BatchNormBackbone):
        return lambda params, stats, batches, rng: stats
    backbone = model.backbone.clone(bn_momentum=0.0, drop_path=0.0, dropout=0.0)
    network = model.clone(backbone=backbone)

    @jax.jit
    def add_batch(total, params, stats, images, rng):
        variables = {"params": params, "batch_stats": stats}
        images = preprocess(rng, images)
        _, updated = network.apply(variables, images, train=True, mutable=["batch_stats"])
        return jax.tree.map(jnp.add, total, updated["batch_stats"])

    def recalibrate(params, stats, batches, rng):
        total, count = jax.tree.map(jnp.zeros_like, stats), 0
        for images in batches:
            total = add_batch(total, params, stats, images, jax.random.fold_in(rng, count))
            count += 1
        return jax.tree.map(lambda value: value / count, total)

    return recalibrate
