"""Top-1 accuracy and cross entropy of every head of a network on held-out images."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, UInt8

from automix_jax.models.backbone import BatchNormBackbone
from automix_jax.models.classifier import Classifier


def make_evaluate(
    model: Classifier,
    normalize: Callable[[Array], Array],
    mesh: Mesh,
    batch_size: int,
) -> Callable[[PyTree, PyTree, Array, Array], dict[str, float]]:
    """Returns a function from (params, stats, images, labels) to metrics by head.

    Images and labels are whole splits on the device; every image counts once, whatever the batch
    size, which is rounded up to a multiple of the devices. The metrics are "accuracy_HEAD" in
    percent and "loss_HEAD".
    """
    batch_size = -(-batch_size // mesh.size) * mesh.size
    split = NamedSharding(mesh, PartitionSpec("data"))
    names = [f"{kind}_{head}" for head in model.heads for kind in ("accuracy", "loss")]
    collection = metrics.Collection.create(
        **{name: metrics.Average.from_output(name) for name in names}
    )

    @jax.jit
    def evaluate_batch(
        params: PyTree,
        stats: PyTree,
        images: UInt8[Array, "n h w c"],
        labels: Int[Array, " n"],
        indices: Int[Array, " b"],
        valid: Bool[Array, " b"],
    ):
        batch, targets = images[indices], labels[indices]
        logits, _ = model.apply({"params": params, "batch_stats": stats}, normalize(batch))
        values: dict[str, Float[Array, " b"]] = {}
        for head in model.heads:
            right = logits[head].argmax(-1) == targets
            values[f"accuracy_{head}"] = 100 * right.astype(jnp.float32)
            values[f"loss_{head}"] = optax.softmax_cross_entropy_with_integer_labels(
                logits[head], targets
            )
        return collection.single_from_model_output(mask=valid, **values)

    def evaluate(params: PyTree, stats: PyTree, images: Array, labels: Array) -> dict[str, float]:
        total = collection.empty()
        for start in range(0, len(labels), batch_size):
            indices = np.arange(start, start + batch_size)
            valid = indices < len(labels)
            indices = np.minimum(indices, len(labels) - 1).astype(np.int32)
            batch = jax.device_put((indices, valid), split)
            total = total.merge(evaluate_batch(params, stats, images, labels, *batch))
        return {name: float(value) for name, value in total.compute().items()}

    return evaluate


def make_recalibrate(
    model: Classifier, preprocess: Callable[[PRNGKeyArray, Array], Array], mesh: Mesh
) -> Callable[[PyTree, PyTree, Array, np.ndarray, PRNGKeyArray], PyTree]:
    """Returns a function that estimates batch-norm statistics afresh for given parameters.

    A teacher that stops at MixBlock's layer has seen clean images only up to there, and an average
    of parameters was never run at all: their running statistics fit no network that is evaluated.
    A network without batch norm keeps what it has.

    The function maps (params, stats, training images, indices [batches, B], key) to the mean
    statistics of these batches, augmented as in training.
    """
    if not isinstance(model.backbone, BatchNormBackbone):
        return lambda params, stats, images, indices, rng: stats
    backbone = model.backbone.clone(bn_momentum=0.0, drop_path=0.0, dropout=0.0)
    network = model.clone(backbone=backbone)
    split = NamedSharding(mesh, PartitionSpec(None, "data"))

    @jax.jit
    def recalibrate(params, stats, images, indices, rng):
        def body(total, inputs):
            batch, rng = inputs
            variables = {"params": params, "batch_stats": stats}
            _, updated = network.apply(
                variables, preprocess(rng, images[batch]), train=True, mutable=["batch_stats"]
            )
            return jax.tree.map(jnp.add, total, updated["batch_stats"]), None

        zeros = jax.tree.map(jnp.zeros_like, stats)
        total, _ = jax.lax.scan(body, zeros, (indices, jax.random.split(rng, len(indices))))
        return jax.tree.map(lambda value: value / len(indices), total)

    return lambda params, stats, images, indices, rng: recalibrate(
        params, stats, images, jax.device_put(indices, split), rng
    )
