"""The objectives of the plain methods: a mixup's batch for the "mix" head, or AugMix's."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from automix_jax.guide import Guide
from automix_jax.losses import CROSS_ENTROPY, Classification, jsd
from automix_jax.mixups.base import Mixed, Mixup
from automix_jax.mixups.gradient import input_saliency, saliency_of
from automix_jax.models.classifier import Classifier
from automix_jax.objective import Frozen, Outcome, forward

stop_gradient = jax.lax.stop_gradient


class _KeysForDraws:
    """A mixup draws for itself: one key for each group is all it needs."""

    def draw(self, rngs: Key[Array, " g"], group_size: int) -> Key[Array, " g"]:
        """Returns the keys."""
        del group_size
        return rngs


@dataclasses.dataclass(frozen=True)
class MixupTraining(_KeysForDraws):
    """Trains the "mix" head on a mixup's images and soft targets, group by group.

    Attributes:
        model: the student, with head "mix".
        mix: the mixup.
        saliency: whether the mixup looks at the gradient of the clean images' loss.
        clean_weight: weight at which the clean images' loss is trained too (Co-Mixup; the CE of
            Table 8). Above 0 the pass that gives the saliency is one of training; at 0 it reads
            running statistics, drops nothing and trains nothing (PuzzleMix).
        guide: the pretrained network whose attention the mixup looks at, or None.
        criterion: the loss of clean and of mixed images.
    """

    model: Classifier
    mix: Mixup
    saliency: bool = False
    clean_weight: float = 0.0
    guide: Guide | None = None
    criterion: Classification = CROSS_ENTROPY

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of the metrics in its outcome."""
        return ("loss", "loss_clean", "loss_mix") if self.clean_weight else ("loss",)

    def loss(
        self,
        params: PyTree,
        frozen: Frozen,
        images: Float[Array, "b h w c"],
        labels: Int[Array, " b"],
        draws: Any,
        step: Int[Array, ""],
    ) -> tuple[Float[Array, ""], Outcome]:
        """Returns the mean loss against the mixed targets (Eq. 2); see `Objective`."""
        del step
        student, stats = params["student"], frozen.student_stats
        rngs = jax.vmap(lambda rng: jax.random.split(rng, 3))(draws)  # [g, 3]
        loss_clean = None
        if self.clean_weight and self.saliency:
            loss_clean, saliency, stats = self._clean_pass(
                student, stats, images, labels, rngs[:, 2]
            )
            seen = {"saliency": saliency}
        else:
            seen = self.look(params, frozen, images, labels, len(draws))
        if self.clean_weight and not self.saliency:
            logits, _, stats = forward(self.model, student, stats, images, rngs[:, 2])
            loss_clean = self.criterion(logits["mix"], labels)

        mixed = self._mix(rngs[:, 0], images, labels, seen)
        mixed_images = mixed.images.reshape(images.shape)
        logits, features, stats = forward(
            self.model, student, stats, mixed_images, rngs[:, 1], transform=mixed.transform
        )
        targets = mixed.targets
        if mixed.retarget is not None:
            attention = _by_group(features["attention"], len(draws))
            targets = jax.vmap(lambda retarget, x: retarget(x))(mixed.retarget, attention)
        loss = self.criterion(logits["mix"], targets.reshape(len(labels), -1))
        metrics = {"loss": loss}
        if loss_clean is not None:
            metrics = {"loss_clean": loss_clean, "loss_mix": loss}
            loss = metrics["loss"] = loss + self.clean_weight * loss_clean
        return loss, Outcome(
            student_stats=stats,
            teacher_stats=frozen.teacher_stats,
            metrics=metrics,
            intermediates={"mixed": mixed_images},
        )

    def preview(
        self,
        params: PyTree,
        frozen: Frozen,
        images: Float[Array, "b h w c"],
        labels: Int[Array, " b"],
        lam: Float[Array, ""] | float,
        perm: Int[Array, " b"],
    ) -> Mixed:
        """Mixes images at a given ratio and pairing, as it does in training."""
        seen = self.look(params, frozen, images, labels)
        rng, classes = jax.random.key(0), self.model.num_classes
        return self.mix(rng, images, labels, num_classes=classes, lam=lam, perm=perm, **seen)

    def _mix(
        self, rngs: Key[Array, " g"], images: Array, labels: Array, seen: dict[str, Array]
    ) -> Mixed:
        """Mixes each group by itself; the result's arrays have the groups as their first axis."""

        def mix_group(rng, images, labels, seen):
            return self.mix(rng, images, labels, num_classes=self.model.num_classes, **seen)

        if len(rngs) == 1:  # under vmap a method that switches between programs runs them all
            mixed = mix_group(rngs[0], images, labels, seen)
            return jax.tree.map(lambda x: x[None], mixed)
        batch = jax.tree.map(lambda x: _by_group(x, len(rngs)), (images, labels, seen))
        return jax.vmap(mix_group)(rngs, *batch)

    def look(
        self,
        params: PyTree,
        frozen: Frozen,
        images: Float[Array, "b h w c"],
        labels: Int[Array, " b"],
        groups: int = 1,
    ) -> dict[str, Array]:
        """What the mixup looks at beside the batch, by keyword: from networks as evaluated.

        The guide sees the groups of the batch apart, since a published one has batch statistics.
        """
        if self.guide is not None:
            guide = functools.partial(self.guide.attention, frozen.guide)
            attention = jax.vmap(guide)(_by_group(images, groups))
            return {"attention": attention.reshape(-1, *attention.shape[2:])}
        if not self.saliency:
            return {}
        variables = stop_gradient(
            {"params": params["student"], "batch_stats": frozen.student_stats}
        )

        def loss(images):
            return self.criterion(self.model.apply(variables, images)[0]["mix"], labels)

        return {"saliency": input_saliency(loss, images)}

    def _clean_pass(
        self,
        student: PyTree,
        stats: PyTree,
        images: Array,
        labels: Array,
        rngs: Key[Array, " g"],
    ) -> tuple[Array, Array, PyTree]:
        """One forward and one backward pass of the clean images, for the loss and the saliency.

        Returns the loss, with its gradient attached, the saliency, and the running statistics.
        """

        def loss(student, images):
            logits, _, updated = forward(self.model, student, stats, images, rngs)
            return self.criterion(logits["mix"], labels), updated

        constant = stop_gradient(student)
        (value, updated), (grads, grad_images) = jax.value_and_grad(loss, (0, 1), has_aux=True)(
            constant, images
        )
        # Adds nothing to the value, and to the gradient what was computed already.
        nothing = jax.tree.map(lambda g, p, c: jnp.vdot(g, p - c), grads, student, constant)
        return value + sum(jax.tree.leaves(nothing)), saliency_of(grad_images), updated


@dataclasses.dataclass(frozen=True)
class AugMixTraining(_KeysForDraws):
    """Trains the "mix" head on clean images and on its consistency under AugMix.

    The loss is that of the clean images plus `weight` times the Jensen-Shannon divergence among the
    predictions for them and two augmented versions (Hendrycks et al., 2020).

    Attributes:
        model: the student, with head "mix".
        augment: AugMix with its options.
        weight: of the divergence.
        criterion: the loss of the clean images, by default the paper's cross entropy.
    """

    model: Classifier
    augment: Mixup
    weight: float = 12.0
    criterion: Classification = CROSS_ENTROPY

    metric_names: ClassVar = ("loss", "loss_clean", "loss_jsd")

    def loss(
        self,
        params: PyTree,
        frozen: Frozen,
        images: Float[Array, "b h w c"],
        labels: Int[Array, " b"],
        draws: Any,
        step: Int[Array, ""],
    ) -> tuple[Float[Array, ""], Outcome]:
        """Returns the loss of a batch; see `Objective`."""
        del step
        groups = len(draws)
        rngs = jax.vmap(lambda rng: jax.random.split(rng, 3))(draws)  # [g, 3]

        def versions(rngs, images, labels):
            def augment(rng):
                classes = self.model.num_classes
                return self.augment(rng, images, labels, num_classes=classes).images

            return jnp.concatenate([images[None], jax.vmap(augment)(rngs[:2])])

        three = jax.vmap(versions)(rngs, _by_group(images, groups), _by_group(labels, groups))
        # One batch, so that batch norm sees the three versions of a group together.
        flat = three.reshape(-1, *images.shape[1:])  # [g * 3 * n, H, W, C]
        logits, _, stats = forward(
            self.model, params["student"], frozen.student_stats, flat, rngs[:, 2]
        )
        split = logits["mix"].reshape(groups, 3, -1, self.model.num_classes).swapaxes(0, 1)
        split = split.reshape(3, len(labels), -1)  # [3, B, K]
        loss_clean, loss_jsd = self.criterion(split[0], labels), jsd(split)
        loss = loss_clean + self.weight * loss_jsd
        return loss, Outcome(
            student_stats=stats,
            teacher_stats=frozen.teacher_stats,
            metrics={"loss": loss, "loss_clean": loss_clean, "loss_jsd": loss_jsd},
            intermediates={"mixed": three[:, 1].reshape(images.shape)},
        )

    def preview(
        self,
        params: PyTree,
        frozen: Frozen,
        images: Float[Array, "b h w c"],
        labels: Int[Array, " b"],
        lam: Float[Array, ""] | float,
        perm: Int[Array, " b"],
    ) -> Mixed:
        """Augments images with a given weight of the clean ones."""
        del params, frozen
        rng, classes = jax.random.key(0), self.model.num_classes
        return self.augment(rng, images, labels, num_classes=classes, lam=lam, perm=perm)


def _by_group(x: Array, groups: int) -> Array:
    """[B, ...] to [groups, B / groups, ...]."""
    return x.reshape(groups, -1, *x.shape[1:])
