"""Top-1 accuracy and cross entropy of every head of a network on held-out images."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import optax
from clu import metrics
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, UInt8

from automix_jax.models.backbone import BatchNormBackbone
from automix_jax.models.classifier import Classifier


def make_evaluate(
    model: Classifier, normalize: Callable[[Array], Array]
) -> Callable[[PyTree, PyTree, Iterable[tuple[Array, Array, Array]]], dict[str, float]]:
    """Returns a function from (params, stats, batches) to metrics by head.

    A batch is images as stored, [b, H, W, C], labels [b], and which of them count [b]. The metrics
    are "accuracy_HEAD" in percent and "loss_HEAD", means over all images that count.
    """
    names = [f"{kind}_{head}" for head in model.heads for kind in ("accuracy", "loss")]
    collection = metrics.Collection.create(
        **{name: metrics.Average.from_output(name) for name in names}
    )

    @jax.jit
    def evaluate_batch(
        params: PyTree,
        stats: PyTree,
        images: UInt8[Array, "b h w c"],
        labels: Int[Array, " b"],
        valid: Bool[Array, " b"],
    ):
        logits, _ = model.apply({"params": params, "batch_stats": stats}, normalize(images))
        values: dict[str, Float[Array, " b"]] = {}
        for head in model.heads:
            right = logits[head].argmax(-1) == labels
            values[f"accuracy_{head}"] = 100 * right.astype(jnp.float32)
            values[f"loss_{head}"] = optax.softmax_cross_entropy_with_integer_labels(
                logits[head], labels
            )
        return collection.single_from_model_output(mask=valid, **values)

    def evaluate(
        params: PyTree, stats: PyTree, batches: Iterable[tuple[Array, Array, Array]]
    ) -> dict[str, float]:
        total = collection.empty()
        for batch in batches:
            total = total.merge(evaluate_batch(params, stats, *batch))
        return {name: float(value) for name, value in total.compute().items()}

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
