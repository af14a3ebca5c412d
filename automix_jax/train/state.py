"""The functional train state."""

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray, PyTree

from automix_jax.mixblock import MixBlock
from automix_jax.models.classifier import Classifier
from automix_jax.train.numbers import Skipped, none_skipped


@flax.struct.dataclass
class TrainState:
    """All that training changes, and all that a checkpoint holds.

    Attributes:
        step: steps done so far, the skipped ones among them.
        params: {"student"}, and for AutoMix "mixblock", the two optimizer groups.
        teacher: parameters of the momentum teacher, empty for a method without one.
        student_stats, teacher_stats: running statistics; each network owns its own.
        opt_state: of the optimizer.
        rng: the key from which the draws of every step are derived; never replaced.
        skipped: the steps that were not taken, since they led to numbers that are not finite.
    """

    step: PyTree
    params: PyTree
    teacher: PyTree
    student_stats: PyTree
    teacher_stats: PyTree
    opt_state: PyTree
    rng: PyTree
    skipped: Skipped = flax.struct.field(default_factory=none_skipped)

    @property
    def encoder(self) -> tuple[PyTree, PyTree]:
        """Parameters and running statistics of the network whose features MixBlock reads."""
        if self.teacher:
            return self.teacher, self.teacher_stats
        return self.params["student"], self.student_stats


def create_state(
    rng: PRNGKeyArray,
    *,
    model: Classifier,
    tx: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    mixblock: MixBlock | None = None,
    layer: str | None = None,
    teacher: bool = True,
) -> TrainState:
    """Initialises a state; to be called inside one jit.

    The teacher starts equal to the student, and only a compiled program surely gives the two
    buffers of their own, which donation needs.

    Args:
        rng: seed of the initialisation and of all later draws.
        model: the student's network.
        tx: the optimizer of `params`.
        image_shape: (height, width, channels) of one image.
        mixblock: the mask generator, None for a plain method.
        layer: name of the feature map that the mask generator reads.
        teacher: whether the method has a momentum teacher.
    """
    rng_model, rng_mixblock, rng_steps = jax.random.split(rng, 3)
    images = jnp.zeros((1, *image_shape))
    variables = model.init(rng_model, images)
    params = {"student": variables["params"]}
    stats = variables.get("batch_stats", {})
    if mixblock is not None:
        _, features = jax.eval_shape(model.apply, variables, images)
        feature_map = features[layer]
        zeros = jnp.zeros(feature_map.shape, feature_map.dtype)
        params["mixblock"] = mixblock.init(rng_mixblock, zeros, method="project")["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        teacher=jax.tree.map(jnp.copy, params["student"]) if teacher else {},
        student_stats=stats,
        teacher_stats=jax.tree.map(jnp.copy, stats) if teacher else {},
        opt_state=tx.init(params),
        rng=rng_steps,
    )
