"""What training objectives share."""

from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from automix_jax.models.backbone import Transform
from automix_jax.models.classifier import Classifier


@flax.struct.dataclass
class Frozen:
    """What an objective reads but never differentiates."""

    teacher: PyTree  # parameters; empty where the method has none
    student_stats: PyTree  # running statistics of batch norm
    teacher_stats: PyTree
    guide: PyTree = None  # variables of a pretrained network that the method looks at


@flax.struct.dataclass
class Outcome:
    """What comes of one evaluation of an objective, beside the loss."""

    student_stats: PyTree
    teacher_stats: PyTree
    metrics: dict[str, Any]  # scalars
    intermediates: dict[str, Any]  # for tests and pictures; compiled away where unused


@runtime_checkable
class Objective(Protocol):
    """A training method: it draws its random numbers by group and turns a batch into a loss."""

    @property
    def model(self) -> Classifier:
        """The network that is trained."""
        ...

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of the metrics in its outcome."""
        ...

    def draw(self, rngs: Key[Array, " g"], group_size: int) -> Any:
        """Draws the random numbers of a step from one key a group; leading axes are groups."""
        ...

    def loss(
        self,
        params: PyTree,
        frozen: Frozen,
        images: Float[Array, "b h w c"],
        labels: Int[Array, " b"],
        draws: Any,
        step: Int[Array, ""],
    ) -> tuple[Float[Array, ""], Outcome]:
        """Returns the loss of a batch and its outcome."""
        ...


def forward(
    model: nn.Module,
    params: PyTree,
    stats: PyTree,
    images: Float[Array, "b h w c"],
    rngs: Key[Array, " g"],
    stop_at: str | None = None,
    transform: Transform | None = None,
) -> tuple[dict[str, Array], dict[str, Array], PyTree]:
    """Runs a network in training mode, each group of the batch by itself.

    Batch norm normalises a group by its own statistics, as data-parallel PyTorch does on each GPU,
    and dropout draws from the group's own key: the numbers do not depend on how many devices share
    the groups.

    Args:
        model: the network.
        params: its parameters.
        stats: its running statistics.
        images: g groups, one after the other.
        rngs: one key a group.
        stop_at: name of the last feature map that is needed.
        transform: of activations inside the network, see `Backbone`; a pytree whose arrays have the
            groups as their first axis.

    Returns:
        Logits by head, feature maps, and the running statistics, the mean of the groups'.
    """

    def run(images, rng, transform):
        return model.apply(
            {"params": params, "batch_stats": stats},
            images,
            train=True,
            stop_at=stop_at,
            transform=transform,
            mutable=["batch_stats"],
            rngs={"dropout": rng},
        )

    grouped = images.reshape(len(rngs), -1, *images.shape[1:])
    (logits, features), updated = jax.vmap(run)(grouped, rngs, transform)
    logits, features = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (logits, features))
    stats = jax.tree.map(lambda x: x.mean(0), updated.get("batch_stats", {}))
    return logits, features, stats


def flatten_perm(perm: Int[Array, "g n"]) -> Int[Array, " b"]:
    """Turns partners within each group into partners within the whole batch."""
    groups, size = perm.shape
    return (perm + size * jnp.arange(groups)[:, None]).reshape(-1)


def accuracy(logits: Float[Array, "b k"], labels: Int[Array, " b"]) -> Float[Array, ""]:
    """The percentage of images whose highest logit is their label's."""
    return 100 * (logits.argmax(-1) == labels).mean()
