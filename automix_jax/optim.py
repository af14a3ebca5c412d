"""Optimizers: one for the student, one for MixBlock, each with its own learning rate."""

from collections.abc import Callable, Mapping

import jax
import optax
from jaxtyping import PyTree

Decays = Callable[[PyTree], PyTree]  # parameters to booleans of the same structure

LAMB_CLIP = 1.0  # LAMB's limit of the gradients' norm, for `by_group`


def everything(params: PyTree) -> PyTree:
    """True for every parameter, as in PyTorch's optimizers."""
    return jax.tree.map(lambda _: True, params)


def kernels(params: PyTree) -> PyTree:
    """True for kernels; False for biases, norms, scales, class token, positions, bias tables."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


DECAYS: Mapping[str, Decays] = {"all": everything, "kernels": kernels}


def sgd(
    schedule: optax.ScalarOrSchedule,
    *,
    momentum: float,
    weight_decay: float,
    decays: Decays = everything,
) -> optax.GradientTransformation:
    """SGD as in PyTorch: weight decay is added to the gradient, before the momentum."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay, decays),
        optax.trace(momentum) if momentum else optax.identity(),
        optax.scale_by_learning_rate(schedule),
    )


def adamw(
    schedule: optax.ScalarOrSchedule, *, weight_decay: float, decays: Decays = kernels
) -> optax.GradientTransformation:
    """AdamW as in PyTorch, with its default betas and epsilon."""
    return optax.adamw(schedule, weight_decay=weight_decay, mask=decays)


def lamb(
    schedule: optax.ScalarOrSchedule, *, weight_decay: float, decays: Decays = kernels
) -> optax.GradientTransformation:
    """LAMB (You et al., 2020) in timm's form, which is OpenMixup's too.

    The step of a tensor that decays, Adam's plus its decay, is scaled to the norm of the tensor,
    unless one of the two norms is 0. Tensors that do not decay take Adam's step as it is; so do all
    of them where `weight_decay` is 0.

    The original first scales the gradients of all parameters together down to a norm of 1: give
    `by_group` the limit `LAMB_CLIP`. `optax.lamb` differs: it scales every tensor, and never clips.
    """
    trust_ratio = optax.masked(optax.scale_by_trust_ratio(), decays)
    return optax.chain(
        optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-6),
        optax.add_decayed_weights(weight_decay, decays),
        trust_ratio if weight_decay else optax.identity(),
        optax.scale_by_learning_rate(schedule),
    )


def by_group(
    groups: Mapping[str, optax.GradientTransformation], clip: float = 0.0
) -> optax.GradientTransformation:
    """Updates each of params["student"] and params["mixblock"] by the optimizer of its name.

    With `clip` above 0 the gradients are first scaled down where their norm over all groups
    together exceeds it: to the originals student and MixBlock are parameters of one optimizer.
    """
    partition = optax.partition(groups, {name: name for name in groups})
    return optax.chain(optax.clip_by_global_norm(clip), partition) if clip else partition
