"""The objectives of the mixups: what they look at, what they train, and what it costs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automix_jax import create_model, mixups
from automix_jax.guide import Guide
from automix_jax.losses import cross_entropy, jsd, soft_cross_entropy
from automix_jax.mixup_training import AugMixTraining, MixupTraining
from automix_jax.models import Classifier
from automix_jax.objective import Frozen, forward
from tests.steps import Setup

CLASSES = 10


@functools.cache
def student():
    """A narrow network with every layer at work, its batch, and the keys of two groups."""
    model = Classifier(
        create_model("resnet8", num_classes=0, stem="cifar", width=4), CLASSES, ("mix",)
    )
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((12, 8, 8, 3)), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    params = jax.tree.map(
        lambda x: x + 0.1 * rng.standard_normal(x.shape).astype(np.float32), variables["params"]
    )
    stats = jax.tree.map(
        lambda x: x + 0.1 * rng.random(x.shape).astype(np.float32), variables["batch_stats"]
    )
    labels = jnp.asarray(rng.integers(0, CLASSES, 12))
    return model, params, stats, images, labels, jax.random.split(jax.random.key(1), 2)


def evaluate(objective, guide=None):
    """Gradient with respect to the student, loss and outcome of an objective."""
    _, params, stats, images, labels, draws = student()
    frozen = Frozen({}, stats, {}, guide)

    @jax.jit
    def run(params):
        def loss(params):
            return objective.loss(
                {"student": params}, frozen, images, labels, draws, jnp.zeros((), int)
            )

        return jax.value_and_grad(loss, has_aux=True)(params)

    (value, outcome), gradient = run(params)
    return value, outcome, gradient


def close(ours, theirs, rtol=1e-5):
    """To float32's rounding, on the scale of each leaf."""
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * (np.abs(b).max() + 1e-3))


@jax.jit
def mixed_loss(params, images, targets):
    """The loss of a network on images mixed beforehand, and its running statistics."""
    model, _, stats, _, _, draws = student()
    rngs = jax.vmap(lambda rng: jax.random.split(rng, 3))(draws)
    logits, _, updated = forward(model, params, stats, images, rngs[:, 1])
    return soft_cross_entropy(logits["mix"], targets), updated


def given(objective):
    """What the groups' mixup saw and gave, as arrays of the whole batch."""
    _, params, stats, images, labels, draws = student()

    @jax.jit
    def run():
        def collect(rng, images, labels, *, num_classes, **extra):
            mixed = objective.mix(rng, images, labels, num_classes=num_classes, **extra)
            return mixed.replace(info={"targets": mixed.targets, **extra})

        spied = dataclasses.replace(objective, mix=collect)
        rngs = jax.vmap(lambda rng: jax.random.split(rng, 3))(draws)
        if objective.clean_weight:
            _, saliency, _ = objective._clean_pass(params, stats, images, labels, rngs[:, 2])
            seen = {"saliency": saliency}
        else:
            seen = objective.look({"student": params}, Frozen({}, stats, {}), images, labels)
        info = spied._mix(rngs[:, 0], images, labels, seen).info
        return jax.tree.map(lambda x: x.reshape(12, *x.shape[2:]), info)

    return run()


puzzle = mixups.create("puzzlemix", blocks=(2,), iterations=20)


def test_puzzlemix_looks_at_the_evaluated_network():
    """The saliency is the gradient in evaluation, and neither it nor its pass is trained."""
    model, params, stats, images, labels, _ = student()
    objective = MixupTraining(model, puzzle, saliency=True)
    value, outcome, gradient = evaluate(objective)
    info = given(objective)

    @jax.jit
    def saliency(images):
        def loss(images):
            logits, _ = model.apply({"params": params, "batch_stats": stats}, images)
            return cross_entropy(logits["mix"], labels)

        return jnp.sqrt(jnp.square(jax.grad(loss)(images)).mean(-1))

    close(info["saliency"], saliency(images))
    mixed = outcome.intermediates["mixed"]
    (expected, updated), slope = jax.value_and_grad(mixed_loss, has_aux=True)(
        params, mixed, info["targets"]
    )
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    close(gradient, slope)
    close(outcome.student_stats, updated)


def test_comixup_trains_the_pass_that_gives_the_saliency():
    """Loss and gradient are those of the mixed images plus `weight` those of the clean ones."""
    weight = 0.5
    model, params, stats, images, labels, draws = student()
    objective = MixupTraining(model, mixups.create("comixup"), True, weight)
    value, outcome, gradient = evaluate(objective)
    info = given(objective)

    @jax.jit
    def both(params, images):
        rngs = jax.vmap(lambda rng: jax.random.split(rng, 3))(draws)
        logits, _, updated = forward(model, params, stats, images, rngs[:, 2])
        clean = cross_entropy(logits["mix"], labels)
        mixed = outcome.intermediates["mixed"]
        logits, _, updated = forward(model, params, updated, mixed, rngs[:, 1])
        mix = soft_cross_entropy(logits["mix"], info["targets"])
        return mix + weight * clean, (clean, mix, updated)

    (expected, (clean, mix, updated)), (slope, slope_images) = jax.value_and_grad(
        both, (0, 1), has_aux=True
    )(params, images)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    close(gradient, slope)
    close(outcome.student_stats, updated)
    for name, metric in (("loss_clean", clean), ("loss_mix", mix), ("loss", expected)):
        np.testing.assert_allclose(outcome.metrics[name], metric, rtol=1e-6)
    assert set(outcome.metrics) == set(objective.metric_names)
    # Mixed images are constants to the clean pass, so this is the gradient of its loss alone.
    close(info["saliency"], np.sqrt(np.square(slope_images / weight).mean(-1)))


def test_augmix_loss():
    """Cross entropy of the clean images plus 12 times the divergence of the three predictions."""
    model, params, stats, images, labels, draws = student()
    objective = AugMixTraining(model, mixups.create("augmix"))
    value, outcome, _ = evaluate(objective)

    @jax.jit
    def expected(images):
        rngs = jax.vmap(lambda rng: jax.random.split(rng, 3))(draws)
        logits = []
        for group in range(2):
            own = slice(6 * group, 6 * group + 6)
            copies = [images[own]] + [
                objective.augment(rng, images[own], labels[own], num_classes=CLASSES).images
                for rng in rngs[group, :2]
            ]
            keys = rngs[group : group + 1, 2]
            out, _, _ = forward(model, params, stats, jnp.concatenate(copies), keys)
            logits.append(out["mix"].reshape(3, 6, CLASSES))
        logits = jnp.concatenate(logits, 1)
        return cross_entropy(logits[0], labels), jsd(logits)

    clean, divergence = expected(images)
    assert divergence > 1e-4  # the versions differ
    np.testing.assert_allclose(outcome.metrics["loss_clean"], clean, rtol=1e-5)
    np.testing.assert_allclose(outcome.metrics["loss_jsd"], divergence, rtol=1e-4)
    np.testing.assert_allclose(value, clean + 12 * divergence, rtol=1e-5)
    assert set(outcome.metrics) == set(objective.metric_names)


def test_attentivemix_looks_at_its_guide():
    model, *_ = student()
    guide = Guide(create_model("resnet8", num_classes=0, stem="cifar", width=4), (0.5,), (0.5,),
                  image_size=(16, 16))  # fmt: skip
    variables = jax.jit(guide.model.init)(jax.random.key(5), jnp.zeros((1, 16, 16, 3)))
    objective = MixupTraining(model, mixups.create("attentivemix"), guide=guide)
    first = evaluate(objective, variables)[1].intermediates["mixed"]
    other = jax.tree.map(lambda x: -x if x.ndim == 4 else x, variables)
    second = evaluate(objective, other)[1].intermediates["mixed"]
    assert (np.asarray(first) != np.asarray(second)).any()


def test_transmix_trains_on_what_the_network_attends_to():
    """The loss is that of targets by group, from the attention of the same forward pass."""
    network = create_model("deit_t", num_classes=0, width=24, blocks=2)
    model = Classifier(network, CLASSES, ("mix",))
    images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    labels, draws = jnp.array([1, 2, 3, 4]), jax.random.split(jax.random.key(1), 2)
    params = jax.jit(model.init)(jax.random.key(2), images)["params"]
    objective = MixupTraining(model, mixups.create("transmix", switch_prob=1.0))

    @jax.jit
    def run(params):
        frozen = Frozen({}, {}, {})
        loss, outcome = objective.loss(
            {"student": params}, frozen, images, labels, draws, jnp.zeros((), int)
        )
        rngs = jax.vmap(lambda rng: jax.random.split(rng, 3))(draws)
        targets, area = [], []
        for group in range(2):
            own = slice(2 * group, 2 * group + 2)
            mixed = objective.mix(rngs[group, 0], images[own], labels[own], num_classes=CLASSES)
            _, features = model.apply({"params": params}, mixed.images)
            targets.append(mixed.retarget(features["attention"]))
            area.append(mixed.targets)
        logits, _ = model.apply({"params": params}, outcome.intermediates["mixed"])
        expected = soft_cross_entropy(logits["mix"], jnp.concatenate(targets))
        return loss, expected, soft_cross_entropy(logits["mix"], jnp.concatenate(area))

    loss, expected, by_area = run(params)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert abs(expected - by_area) > 1e-5


def flops(method, **options):
    """FLOPs of a lowered step of ResNet-18 at full width."""
    setup = Setup(method=method, model="resnet18", stem="cifar", image=32)
    setup.objective = dataclasses.replace(setup.objective, **options)
    setup.step = functools.partial(setup.step.func, **{**setup.step.keywords,
                                                       "objective": setup.objective})  # fmt: skip
    return setup.lower(20).cost_analysis()["flops"]


def test_cost():
    """A forward and a backward pass more, of which PuzzleMix needs no weight gradients."""
    vanilla = flops("vanilla")
    assert flops("mixup") / vanilla == pytest.approx(1, abs=2e-3)
    assert flops("manifoldmix") / vanilla == pytest.approx(1, abs=5e-3)
    assert 1.6 < flops("puzzlemix", saliency=True) / vanilla < 1.7
    assert 1.9 < flops("comixup", saliency=True, clean_weight=1.0) / vanilla < 2.02


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=pytest.mark.long) for name in ("manifoldmix", "puzzlemix")]
)
def test_devices_do_not_matter(method):
    """A step in eight groups on one device and on eight: the same up to float32's rounding."""
    states = {}
    for devices in (1, 8):
        setup = Setup(method=method, width=4, image=8, groups=8, devices=devices)
        if method == "puzzlemix":
            objective = MixupTraining(setup.objective.model, puzzle, saliency=True)
            setup.step = functools.partial(
                setup.step.func, **{**setup.step.keywords, "objective": objective}
            )
        state = setup.create(jax.random.key(0))
        step = jax.jit(setup.step, out_shardings=setup.whole)
        batch = jax.device_put(setup.batch(32), setup.split)
        state, metrics = step(state, *batch)
        states[devices] = jax.device_get((state.params, state.student_stats, metrics))
    close(states[8], states[1], rtol=3e-6)
