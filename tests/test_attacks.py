"""Adversarial images: closed forms, bounds, and another library's."""

import functools
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from automix_jax.errors import DataError, NumbersError
from automix_jax.evaluate import attacks
from automix_jax.evaluate.network import Network
from automix_jax.models import create_model
from automix_jax.report import robustness_curves

EPSILON, STEP = 8 / 255, 2 / 255
SHAPE = (8, 8, 3)


def linear(classes=2, scale=1.0, seed=0):
    """A linear network's weights [H W C, K], and it as a function of pixels."""
    size = int(np.prod(SHAPE))
    weights = scale * np.random.default_rng(seed).normal(size=(size, classes))
    return weights, jax.jit(lambda pixels: pixels.reshape(len(pixels), -1) @ weights)


def some_pixels(count=6, low=0.0, high=1.0, seed=1):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.uniform(low, high, (count, *SHAPE)))


def signs(weights, labels):
    """Of the gradient of a linear network of two classes."""
    own, other = weights[:, labels], weights[:, 1 - labels]
    return np.sign(other - own).T.reshape(-1, *SHAPE)


@pytest.fixture(scope="module")
def network():
    """A small ResNet whose running statistics are not those that it starts with."""
    model = create_model("resnet8", num_classes=4, width=4, stem="cifar")
    rng = np.random.default_rng(0)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    variables = jax.tree.map(
        lambda x: (np.asarray(x) * rng.uniform(0.7, 1.3, x.shape)).astype(np.float32), variables
    )
    return Network(model, variables, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(2).integers(0, 256, (13, *SHAPE), dtype=np.uint8)


@pytest.fixture(scope="module")
def classify(network):
    """It is compiled once for the file."""
    return jax.jit(lambda pixels: network(pixels)[0])


@pytest.fixture(scope="module")
def labels(classify, images):
    """What the network sees without an attack, but for the first image and the last."""
    seen = np.asarray(classify(jnp.float32(images) / 255)).argmax(-1)
    return np.where(np.isin(np.arange(13), (0, 12)), (seen + 1) % 4, seen)


@pytest.fixture(scope="module")
def errors(network, images, labels):
    """Of the attacks of the curve and of the table."""
    return attacks.attack_errors(
        network, images, labels, 8, attacks={**attacks.CURVE, **attacks.ATTACKS}, seed=3
    )


@pytest.fixture(scope="module")
def foolbox():
    """The library, which uses what NumPy and JAX have deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import foolbox

    return foolbox


# -- one batch ---------------------------------------------------------------------------------


def test_linear_network_has_a_closed_form():
    """Away from 0 and 1, the worst images are at a corner, the margin less by epsilon |w|_1."""
    weights, predict = linear()
    pixels, labels = some_pixels(low=0.1, high=0.9), jnp.array([0, 1, 1, 0, 1, 0])
    direction = signs(weights, np.asarray(labels))
    corner = np.asarray(pixels) + EPSILON * direction
    start = attacks.random_start(jax.random.key(0), jnp.arange(6), SHAPE, EPSILON)
    for attacked in (
        attacks.fgsm(predict, pixels, labels),
        attacks.pgd(predict, pixels, labels, steps=4),
        # From the other end it is twice as far.
        attacks.pgd(predict, pixels, labels, steps=8, start=start),
    ):
        np.testing.assert_allclose(attacked, corner, rtol=0, atol=1e-6)

    before, after = (np.diff(predict(x), axis=1)[:, 0] for x in (pixels, corner))
    length = EPSILON * abs(weights[:, 0] - weights[:, 1]).sum()
    loss = (1 - 2 * np.asarray(labels)) * (after - before)  # of the own class to the other
    np.testing.assert_allclose(loss, length, rtol=1e-4)
    two = attacks.pgd(predict, pixels, labels, steps=2)
    np.testing.assert_allclose(two - corner, (2 * STEP - EPSILON) * direction, rtol=0, atol=1e-6)


def test_pixels_without_gradient_stay():
    weights, _ = linear()
    weights[::2] = 0
    pixels, labels = some_pixels(), jnp.zeros(6, int)
    attacked = attacks.fgsm(lambda x: x.reshape(6, -1) @ weights, pixels, labels)
    before, after = (np.asarray(x.reshape(6, -1)) for x in (pixels, attacked))
    np.testing.assert_array_equal(after[:, ::2], before[:, ::2])
    assert (after[:, 1::2] != before[:, 1::2]).mean() > 0.9  # the others are at 0 or 1


def test_a_sure_network_is_attacked():
    """Probabilities that round to 1 have a cross entropy whose gradient rounds to 0."""
    weights, predict = linear(classes=5, scale=1000.0)
    pixels = some_pixels()
    logits = np.asarray(predict(pixels))
    nearest, own = np.argsort(logits, axis=1)[:, -2:].T
    assert (np.diff(np.sort(logits, axis=1))[:, -1] > 200).all()  # exp(-200) is 0 in float32
    direction = np.sign(weights[:, nearest] - weights[:, own]).T.reshape(6, *SHAPE)
    attacked = attacks.fgsm(predict, pixels, jnp.asarray(own))
    expected = np.clip(pixels + EPSILON * direction, 0, 1)
    np.testing.assert_allclose(attacked, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("random", [False, True])
def test_bounds(classify, random):
    """Within epsilon of the image, and within [0, 1]: many pixels are near its ends."""
    pixels = jnp.float32(some_pixels(8).round(1))
    labels = jnp.arange(8) % 4
    start = attacks.random_start(jax.random.key(1), jnp.arange(8), SHAPE, EPSILON)
    made = attacks.pgd(classify, pixels, labels, steps=5, start=start if random else None)
    attacked, pixels = np.asarray(made), np.asarray(pixels)
    assert attacked.dtype == jnp.float32
    assert abs(attacked - pixels).max() <= EPSILON + 1e-7
    assert attacked.min() >= 0 and attacked.max() <= 1
    assert abs(attacked - pixels).max() >= EPSILON - 1e-6


def test_starts_are_uniform_and_of_each_image():
    draw = functools.partial(attacks.random_start, jax.random.key(0), shape=SHAPE, epsilon=0.1)
    whole = np.asarray(draw(indices=jnp.arange(40)))
    np.testing.assert_array_equal(draw(indices=jnp.array([7, 3])), whole[[7, 3]])
    assert abs(whole).max() <= 0.1
    # 7,680 values: their mean is within 4 of its standard deviations, 0.0577 / 88.
    assert abs(whole.mean()) < 0.0027 and abs(whole.std() - 0.1 / 3**0.5) < 0.0015
    assert len(np.unique(whole[:, 0, 0, 0])) == 40


def attack_with_foolbox(foolbox, predict, pixels, labels, steps=None, start=None):
    """FGSM, or PGD from a start, by Foolbox."""
    attack = foolbox.attacks.LinfFastGradientAttack()
    if steps is not None:
        attack = foolbox.attacks.LinfProjectedGradientDescentAttack(
            abs_stepsize=STEP, steps=steps, random_start=start is not None
        )
        attack.get_random_start = types.MethodType(lambda self, x, epsilon: x + start, attack)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = foolbox.JAXModel(predict, bounds=(0, 1))
        return attack.run(model, pixels, labels, epsilon=EPSILON)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["linear", "resnet"])
def test_foolbox_makes_the_same_images(foolbox, network, kind):
    """In float64, where no gradient is so near 0 that rounding turns its sign."""
    if kind == "linear":
        _, predict = linear(classes=5)
    else:
        variables = jax.tree.map(np.float64, network.variables)
        predict = jax.jit(lambda pixels: network(pixels, variables)[0])
    pixels, labels = some_pixels(), jnp.arange(6) % 4
    assert predict(pixels).dtype == jnp.float64
    start = attacks.random_start(jax.random.key(0), jnp.arange(6), SHAPE, EPSILON)
    ours = [
        attacks.fgsm(predict, pixels, labels),
        attacks.pgd(predict, pixels, labels),
        attacks.pgd(predict, pixels, labels, start=start),
    ]
    theirs = [
        attack_with_foolbox(foolbox, predict, pixels, labels, *arguments)
        for arguments in ((), (10,), (10, start))
    ]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)
    if kind == "resnet":  # a linear network's corner is the same from everywhere
        assert abs(ours[1] - ours[2]).max() > 1e-3


# -- a data set --------------------------------------------------------------------------------


def test_errors_are_those_of_the_attacks(classify, images, labels, errors):
    """Against one batch of all images, step by step; the data set was attacked in two."""
    pixels, true = jnp.float32(images) / 255, jnp.asarray(labels)

    def error(moved):
        return 100 * float((classify(moved).argmax(-1) != true).mean())

    def start(epsilon):
        return attacks.random_start(jax.random.key(3), jnp.arange(13), SHAPE, epsilon)

    pgd = functools.partial(attacks.pgd, classify, pixels, true)
    expected = {
        "clean": error(pixels),
        "fgsm_8": error(attacks.fgsm(classify, pixels, true)),
        "pgd10_8": error(pgd(start=start(EPSILON))),
        "pgd20_8": error(pgd(steps=20, start=start(EPSILON))),
        "pgd20_4": error(pgd(epsilon=4 / 255, steps=20, start=start(4 / 255))),
    }
    found = {name: errors[name] for name in expected}
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-6)
    np.testing.assert_allclose(found["clean"], 100 * 2 / 13, rtol=1e-12)
    assert found["pgd20_8"] > found["clean"]


def test_stronger_attacks_err_more(errors):
    curve = attacks.error_curve(errors)
    assert curve["epsilon"] == [0, 1, 2, 4, 8, 16]
    assert curve["fgsm"][0] == curve["pgd10"][0] == errors["clean"]
    assert curve["fgsm"][4] == errors["fgsm_8"] and curve["pgd10"][4] == errors["pgd10_8"]
    assert (np.diff(curve["pgd10"]) >= 0).all() and curve["pgd10"][-1] > curve["pgd10"][0]
    assert attacks.CURVE["pgd10_8"] == attacks.ATTACKS["pgd10_8"]


def test_batches_do_not_matter(network, images, labels, errors, monkeypatch):
    """Nor are networks traced more than twice, or changed."""
    traced, starts, done = [], [], []
    logits, ascend = attacks._logits, attacks._ascend

    def record_trace(*arguments):
        traced.append(arguments)
        return logits(*arguments)

    def record_start(step, pixels, labels, attack, start):
        if attack == attacks.ATTACKS["pgd20_4"]:
            starts.append(start)
        return ascend(step, pixels, labels, attack, start)

    monkeypatch.setattr(attacks, "_logits", record_trace)
    monkeypatch.setattr(attacks, "_ascend", record_start)
    before = jax.tree.map(np.copy, network.variables)
    found = attacks.attack_errors(network, images, labels, 5, seed=3, advance=done.append)
    assert found == {name: errors[name] for name in ("clean", *attacks.ATTACKS)}
    assert done == [5, 5, 3]
    assert len(traced) == 2  # its gradient, and what it sees
    jax.tree.map(np.testing.assert_array_equal, network.variables, before)
    expected = attacks.random_start(jax.random.key(3), jnp.arange(13), SHAPE, 4 / 255)
    np.testing.assert_allclose(np.concatenate(starts)[:13], expected, rtol=0, atol=1e-8)


def test_bad_input(network, images, labels):
    with pytest.raises(DataError, match="at least one"):
        attacks.attack_errors(network, images[:0], labels[:0], 8)
    broken = jax.tree.map(np.copy, network.variables)
    broken["params"]["head"]["bias"][1] = np.inf
    broken = Network(network.model, broken, network.mean, network.std)
    with pytest.raises(NumbersError, match="not finite"):
        attacks.attack_errors(broken, images, labels, 8, attacks={})


# -- the chart ---------------------------------------------------------------------------------


def test_chart(tmp_path, monkeypatch):
    drawn, savefig = [], Figure.savefig

    def save(self, *arguments, **options):
        drawn.append(self)
        savefig(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", save)
    levels = [0, 1, 2, 4, 8, 16]
    curves = {
        name: {"epsilon": levels, "fgsm": [i, 2, 4, 8, 16, 32], "pgd10": [i, 9, 20, 80, 99, 100]}
        for i, name in enumerate(("automix", "vanilla"))
    }
    paths = robustness_curves.draw_errors(tmp_path / "attacks", curves)
    assert [path.name for path in paths] == ["attacks.png", "attacks.svg"]
    assert all(path.stat().st_size for path in paths)
    (panel,) = drawn[0].axes
    expected = [curve[kind] for curve in curves.values() for kind in ("pgd10", "fgsm")]
    for line, values in zip(panel.lines, expected, strict=True):
        np.testing.assert_array_equal(line.get_data(), [levels, values])
    assert len({line.get_color() for line in panel.lines}) == 2
    legend = [text.get_text() for text in panel.get_legend().get_texts()]
    assert legend[:2] == ["automix: PGD, 10 steps", "automix: FGSM"]


def test_strengths_of_the_attacks():
    """The usual ones: distance and step in levels of 255, steps, and whether a start is drawn."""
    found = {
        name: (round(255 * a.epsilon), round(255 * a.step_size, 6), a.steps, a.random)
        for name, a in (attacks.ATTACKS | attacks.CURVE).items()
    }
    assert found["fgsm_8"] == (8, 8, 1, False)
    assert found["pgd10_8"] == (8, 2, 10, True) and found["pgd20_8"] == (8, 2, 20, True)
    assert found["pgd20_4"] == (4, 2, 20, True) and found["pgd10_16"] == (16, 4, 10, True)
