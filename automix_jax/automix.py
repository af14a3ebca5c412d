"""The AutoMix objective: what flows through student, teacher and MixBlock, and where it stops.

Two ratios and two pairings a step: one mixed batch trains MixBlock through the frozen teacher, the
other, whose mask is a constant, trains the student (Eq. 8).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from automix_jax.losses import CROSS_ENTROPY, Classification, mix_labels
from automix_jax.mixblock import MaskLossForm, MixBlock, mask_loss, mix_images, predict_mask
from automix_jax.mixups.sampling import sample_lam, sample_perm
from automix_jax.models.classifier import Classifier
from automix_jax.objective import Frozen, Outcome, accuracy, flatten_perm, forward

stop_gradient = jax.lax.stop_gradient
_CLEAN = ("loss_clean", "accuracy_clean")
_SEEN = ("mask_std", "mask_deviation")


@flax.struct.dataclass
class AutoMixDraws:
    """The random numbers of a step, by group of the batch."""

    lam_mixblock: Any  # [groups]
    lam_student: Any
    perm_mixblock: Any  # [groups, images of a group], partners within the group
    perm_student: Any
    rngs: Any  # [groups, 4], keys of what the networks draw: two passes of each


@dataclasses.dataclass(frozen=True)
class AutoMix:
    """The losses of AutoMix (section 3) for a batch, or the groups of it that a device holds.

    Attributes:
        model: student and teacher, with heads "mix" and "clean".
        mixblock: the mask generator.
        layer: name of the teacher's feature map that it reads (the paper's l).
        mask_weight: schedule of the mask loss's weight (gamma).
        mask_form, mask_margin, mask_per_sample: see `mask_loss`.
        alpha: ratios come from Beta(alpha, alpha).
        lam_margin: where the student's ratio is this close to 0 or 1 it sees plain MixUp, not a
            mask; negative for never. Not in the paper, but in all of the authors' recipes.
        full_forward: whether the teacher reads clean images to its end, as in the authors' code,
            or stops at `layer`. Training is identical; only the running statistics of the
            teacher's last layers differ.
        criterion: the loss of clean and of mixed images, the student's and the teacher's.
        clean: whether the student learns the clean images too (the CE of Table 8).
        generates: says for a step whether the teacher reads MixBlock's mixed images. Where it does
            not, which saves that pass and its gradient, the loss of generation is 0 and MixBlock
            follows the mask loss alone. None: in every step.
    """

    model: Classifier
    mixblock: MixBlock
    layer: str
    mask_weight: optax.Schedule
    mask_form: MaskLossForm = "l1"
    mask_margin: float = 0.1
    mask_per_sample: bool = True
    alpha: float = 2.0
    lam_margin: float = 0.08
    full_forward: bool = False
    clean: bool = True
    criterion: Classification = CROSS_ENTROPY
    generates: Callable[[Int[Array, ""]], Bool[Array, ""]] | None = None

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of the metrics in its outcome."""
        names = ("loss", "loss_mix", "loss_generate", "loss_mask", "mask_dropped", *_SEEN)
        return (*names, *_CLEAN) if self.clean else names

    def draw(self, rngs: Key[Array, " g"], group_size: int) -> AutoMixDraws:
        """Draws ratios and partners for groups of the batch, one key [g] each."""

        def draw_group(rng):
            networks = jax.random.fold_in(rng, 3)  # the next after the three of the split
            rngs = jax.random.split(rng, 3)
            lam = sample_lam(rngs[0], self.alpha, (2,))
            perms = (sample_perm(rngs[1], group_size), sample_perm(rngs[2], group_size))
            return AutoMixDraws(lam[0], lam[1], *perms, jax.random.split(networks, 4))

        return jax.vmap(draw_group)(rngs)

    def loss(
        self,
        params: PyTree,
        frozen: Frozen,
        images: Float[Array, "b h w c"],
        labels: Int[Array, " b"],
        draws: AutoMixDraws,
        step: Int[Array, ""],
    ) -> tuple[Float[Array, ""], Outcome]:
        """Returns the sum of the four losses (Eq. 8) and what else came of the step.

        Args:
            params: {"student", "mixblock"}; each loss reaches one of the two and not the other.
            frozen: the teacher and the running statistics of both networks.
            images: normalised images, g groups one after the other.
            labels: their classes.
            draws: this step's random numbers.
            step: for the schedule of the mask loss.
        """
        groups, group_size = draws.perm_mixblock.shape
        size, num_classes = (images.shape[1], images.shape[2]), self.model.num_classes
        teacher = stop_gradient(frozen.teacher)
        lam_mixblock = jnp.repeat(draws.lam_mixblock, group_size)  # [B]
        lam_student = jnp.repeat(draws.lam_student, group_size)
        perm_mixblock = flatten_perm(draws.perm_mixblock)  # [B]
        perm_student = flatten_perm(draws.perm_student)

        # The teacher shows MixBlock the clean images, and MixBlock decides twice.
        stop_at = None if self.full_forward else self.layer
        _, features, teacher_stats = forward(
            self.model, teacher, frozen.teacher_stats, images, draws.rngs[:, 0], stop_at
        )
        projections: Any = self.mixblock.apply(
            {"params": params["mixblock"]}, features[self.layer], method="project"
        )
        upsample = self.mixblock.upsample
        mask = predict_mask(projections, lam_mixblock, perm_mixblock, size, upsample)
        student_mask = predict_mask(
            stop_gradient(projections), lam_student, perm_student, size, upsample
        )
        plain = jnp.minimum(lam_student, 1 - lam_student) <= self.lam_margin
        student_mask_used = jnp.where(
            plain[:, None, None, None], lam_student[:, None, None, None], student_mask
        )

        # Generation: the frozen teacher says whether a mixed image shows what its label claims.
        mixed = mix_images(images, mask, perm_mixblock)

        def generate(stats):
            logits, _, stats = forward(self.model, teacher, stats, mixed, draws.rngs[:, 1])
            targets = mix_labels(labels, labels[perm_mixblock], lam_mixblock, num_classes)
            return self.criterion(logits["mix"], targets), stats

        def leave_out(stats):
            return jnp.zeros((), mixed.dtype), stats

        if self.generates is None:
            loss_generate, teacher_stats = generate(teacher_stats)
        else:
            loss_generate, teacher_stats = jax.lax.cond(
                self.generates(step), generate, leave_out, teacher_stats
            )
        losses_mask, dropped = jax.vmap(self._mask_loss)(
            mask.reshape(groups, group_size, *mask.shape[1:]), draws.lam_mixblock
        )
        loss_mask = losses_mask.mean()

        # Classification: the student learns clean and mixed images, each with its own head.
        student_mixed = mix_images(images, student_mask_used, perm_student)
        student_stats, seen_clean = frozen.student_stats, {}
        if self.clean:
            clean_logits, _, student_stats = forward(
                self.model, params["student"], student_stats, images, draws.rngs[:, 2]
            )
            seen_clean = self._learn_clean(clean_logits, labels)
        mixed_logits, _, student_stats = forward(
            self.model, params["student"], student_stats, student_mixed, draws.rngs[:, 3]
        )
        targets = mix_labels(labels, labels[perm_student], lam_student, num_classes)
        loss_mix = self.criterion(mixed_logits["mix"], targets)

        weighted_mask = self.mask_weight(step) * loss_mask
        total = seen_clean.get("loss_clean", 0.0) + loss_mix + loss_generate + weighted_mask
        return total, Outcome(
            student_stats=student_stats,
            teacher_stats=teacher_stats,
            metrics={
                "loss": total,
                "loss_mix": loss_mix,
                "loss_generate": loss_generate,
                "loss_mask": loss_mask,
                "mask_dropped": dropped.mean(dtype=loss_mask.dtype),
                **_seen(mask, lam_mixblock),
                **seen_clean,
            },
            intermediates={
                "features": features[self.layer],
                "mask": mask,
                "student_mask": student_mask,
                "mixed": mixed,
                "student_mixed": student_mixed,
            },
        )

    def _learn_clean(self, logits: dict[str, Array], labels: Array) -> dict[str, Array]:
        """The metrics of clean images; the loss is one of them."""
        return {
            "loss_clean": self.criterion(logits["clean"], labels),
            "accuracy_clean": accuracy(logits["clean"], labels),
        }

    def _mask_loss(self, mask: Array, lam: Array) -> tuple[Array, Array]:
        """The mask loss of a group, 0 where it is not finite, and whether it was dropped so."""

        def loss(mask):
            return mask_loss(
                mask,
                lam,
                form=self.mask_form,
                margin=self.mask_margin,
                per_sample=self.mask_per_sample,
            )

        dropped = ~jnp.isfinite(loss(stop_gradient(mask)))
        # The gradient of what is not selected is 0 times a derivative, which may be infinite: with
        # the mask itself cut off from it, no product of the two reaches MixBlock.
        return jnp.where(dropped, 0.0, loss(jnp.where(dropped, 0.5, mask))), dropped


def _seen(mask: Float[Array, "b h w 1"], lam: Float[Array, " b"]) -> dict[str, Array]:
    """How masks look: 0 and 0 are plain MixUp; 0 and large, one image alone whatever the ratio."""
    return {
        "mask_std": mask.std((1, 2, 3)).mean(),  # over the pixels of a mask
        "mask_deviation": jnp.abs(mask.mean((1, 2, 3)) - lam).mean(),  # of its mean from the ratio
    }


class JointAutoMix(AutoMix):
    """AutoMix without its momentum pipeline: one network is student and encoder ("none", Table 8).

    The student's own features go to MixBlock, its loss on the mixed images trains both, and the
    gradients run through mask and features into both, entangled. There is no teacher. The paper
    does not define this row; here it is Eq. 3 with one mixed batch, with the mask loss, and with
    its masks at every ratio: `lam_margin` is the student's of the pipeline.
    """

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of the metrics in its outcome."""
        return tuple(name for name in super().metric_names if name != "loss_generate")

    def loss(
        self,
        params: PyTree,
        frozen: Frozen,
        images: Float[Array, "b h w c"],
        labels: Int[Array, " b"],
        draws: AutoMixDraws,
        step: Int[Array, ""],
    ) -> tuple[Float[Array, ""], Outcome]:
        """Returns the sum of the losses, all of which reach the student; see `AutoMix.loss`."""
        groups, group_size = draws.perm_mixblock.shape
        lam = jnp.repeat(draws.lam_mixblock, group_size)  # [B]
        perm = flatten_perm(draws.perm_mixblock)
        student, stats = params["student"], frozen.student_stats
        stop_at = None if self.clean else self.layer
        clean_logits, features, stats = forward(
            self.model, student, stats, images, draws.rngs[:, 2], stop_at
        )
        mask: Any = self.mixblock.apply(
            {"params": params["mixblock"]},
            features[self.layer],
            lam,
            perm,
            image_size=(images.shape[1], images.shape[2]),
        )
        mixed = mix_images(images, mask, perm)
        mixed_logits, _, stats = forward(self.model, student, stats, mixed, draws.rngs[:, 3])
        targets = mix_labels(labels, labels[perm], lam, self.model.num_classes)
        loss_mix = self.criterion(mixed_logits["mix"], targets)
        losses_mask, dropped = jax.vmap(self._mask_loss)(
            mask.reshape(groups, group_size, *mask.shape[1:]), draws.lam_mixblock
        )
        loss_mask = losses_mask.mean()
        seen_clean = self._learn_clean(clean_logits, labels) if self.clean else {}
        total = loss_mix + self.mask_weight(step) * loss_mask + seen_clean.get("loss_clean", 0.0)
        return total, Outcome(
            student_stats=stats,
            teacher_stats=frozen.teacher_stats,
            metrics={
                "loss": total,
                "loss_mix": loss_mix,
                "loss_mask": loss_mask,
                "mask_dropped": dropped.mean(dtype=loss_mask.dtype),
                **_seen(mask, lam),
                **seen_clean,
            },
            intermediates={"features": features[self.layer], "mask": mask, "mixed": mixed},
        )
