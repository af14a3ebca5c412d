"""Backbones and their layers: counts, shapes, and PyTorch's conventions in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automix_jax.errors import ConfigError
from automix_jax.models import Classifier, create_model, list_models
from automix_jax.models.layers import BatchNorm, conv, linear_head, max_pool
from automix_jax.models.resnet import BasicBlock, Bottleneck, ResNet
from tests.reference import central_differences

EXACT = {"rtol": 1e-12, "atol": 1e-12}

# name, stem: parameters without head, channels of the pooled features
COUNTS = {
    ("resnet18", "cifar"): (11_168_832, 512),
    ("resnet34", "cifar"): (21_276_992, 512),
    ("resnet50", "cifar"): (23_500_352, 2048),
    ("resnext50_32x4d", "cifar"): (22_972_224, 2048),
    ("resnext101_32x4d", "cifar"): (42_121_024, 2048),
    ("resnet18", "imagenet"): (11_176_512, 512),
    ("resnet34", "imagenet"): (21_284_672, 512),
    ("resnet50", "imagenet"): (23_508_032, 2048),
    ("resnet101", "imagenet"): (42_500_160, 2048),
    ("resnext50_32x4d", "imagenet"): (22_979_904, 2048),
    ("resnext101_32x4d", "imagenet"): (42_128_704, 2048),
    ("resnet8", "cifar"): (77_392, 64),  # counted by hand
    ("resnet8", "imagenet"): (79_312, 64),
}
# totals as published, by classes
TOTALS = {
    ("resnet18", "cifar"): {10: 11_173_962, 100: 11_220_132, 200: 11_271_432, 1000: 11_681_832},
    ("resnet50", "imagenet"): {10: 23_528_522, 100: 23_712_932, 200: 23_917_832, 1000: 25_557_032},
    ("resnext50_32x4d", "cifar"): {
        10: 22_992_714,
        100: 23_177_124,
        200: 23_382_024,
        1000: 25_021_224,
    },
}


@functools.cache
def shapes(name, stem, num_classes, size=32):
    """(outputs, variables) as shapes; nothing is computed."""
    model = create_model(name, num_classes=num_classes, stem=stem)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(functools.partial(model.init_with_output), jax.random.key(0), images)


def count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


# -- whole networks by shape -------------------------------------------------------------------


def test_every_model_is_counted():
    assert {name for name, _ in COUNTS} == set(list_models())


@pytest.mark.parametrize(("name", "stem"), COUNTS)
def test_parameter_counts(name, stem):
    expected, channels = COUNTS[name, stem]
    (pooled, features), variables = shapes(name, stem, 0)
    assert count(variables["params"]) == expected
    assert pooled.shape == (2, channels)
    assert pooled.dtype == jnp.float32
    assert features[max(features)].shape[-1] == channels
    for classes in (10, 100, 200, 1000):
        head = jax.eval_shape(linear_head(classes).init, jax.random.key(0), pooled)
        total = count(variables["params"]) + count(head)
        assert total == expected + channels * classes + classes
        assert total == TOTALS.get((name, stem), {}).get(classes, total)


@pytest.mark.parametrize("classes", [10, 100, 200, 1000])
@pytest.mark.parametrize("name", ["resnet8", "resnet18"])
def test_parameter_counts_with_the_models_own_head(name, classes):
    (logits, _), variables = shapes(name, "imagenet", classes)
    backbone, channels = COUNTS[name, "imagenet"]
    assert logits.shape == (2, classes)
    assert count(variables["params"]) == backbone + channels * classes + classes
    assert variables["params"]["head"]["kernel"].shape == (channels, classes)


@pytest.mark.parametrize(
    ("name", "stem", "size", "sides"),
    [
        ("resnet18", "cifar", 32, (32, 16, 8, 4)),
        ("resnet18", "cifar", 64, (64, 32, 16, 8)),
        ("resnet18", "imagenet", 224, (56, 28, 14, 7)),
        ("resnet18", "imagenet", 160, (40, 20, 10, 5)),
        ("resnet50", "cifar", 32, (32, 16, 8, 4)),
        ("resnet50", "cifar", 64, (64, 32, 16, 8)),
        ("resnet50", "imagenet", 224, (56, 28, 14, 7)),
    ],
)
def test_feature_maps(name, stem, size, sides):
    (_, features), _ = shapes(name, stem, 0, size)
    first = {"resnet18": 64, "resnet50": 256}[name]
    assert {key: leaf.shape for key, leaf in features.items()} == {
        f"stage{i + 1}": (2, side, side, first * 2**i) for i, side in enumerate(sides)
    }


def test_unknown_models():
    with pytest.raises(ConfigError, match=r"'resnet81' is not known\. Did you mean 'resnet8'"):
        create_model("resnet81")
    with pytest.raises(ConfigError, match=r"'vit' is not known\. Use resnet8, "):
        create_model("vit")
    with pytest.raises(ConfigError, match=r"does not take these options.*'depth'"):
        create_model("resnet18", depth=3)


# -- one small network, run --------------------------------------------------------------------


def random_variables(model, images):
    """Variables all unlike their initial values, without a compiled initialisation."""
    rng = np.random.default_rng(0)

    def fill(leaf):
        if leaf.ndim == 1:  # norms and biases
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
        deviation = np.sqrt(2 / np.prod(leaf.shape[:-1]))
        return jnp.asarray(deviation * rng.standard_normal(leaf.shape), leaf.dtype)

    return jax.tree.map(fill, jax.eval_shape(model.init, jax.random.key(0), images))


@pytest.fixture(scope="module")
def small():
    """resnet8 of width 4: (model, variables, images, compiled run)."""
    model = create_model("resnet8", num_classes=5, stem="cifar", width=4)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    variables = random_variables(model, images)

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def run(variables, train, stop_at):
        return model.apply(variables, images, train, stop_at, mutable=["batch_stats"])

    return model, variables, images, run


@pytest.mark.parametrize(("stage", "train"), [(1, True), (2, True), (2, False)])
def test_stopping_early(small, stage, train):
    """The same feature map as in the whole run, and statistics move only up to there."""
    _, variables, _, run = small
    (logits, whole), whole_stats = run(variables, train, None)
    (nothing, features), stats = run(variables, train, f"stage{stage}")
    assert nothing is None
    assert logits.shape == (4, 5)
    assert list(features) == [f"stage{i}" for i in range(1, stage + 1)]
    for name, feature in features.items():
        # Other programs, other fusions: float32 rounding of values of order one.
        np.testing.assert_allclose(feature, whole[name], rtol=1e-5, atol=1e-5)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    for name, old in variables["batch_stats"].items():
        new = stats["batch_stats"][name]
        if train and (name == "stem_bn" or int(name[5]) <= stage):  # stem_bn, stage1_block1, ...
            jax.tree.map(close, new, whole_stats["batch_stats"][name])
            assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), new, old)))
        else:
            jax.tree.map(np.testing.assert_array_equal, new, old)


def test_stopping_at_what_there_is_not(small):
    model, variables, images, _ = small
    for name in ("stage4", "stem", ""):
        with pytest.raises(ValueError, match=f"stop_at is '{name}': .*stage1, stage2, stage3"):
            model.apply(variables, images, stop_at=name)


def test_no_classes_gives_the_mean_of_the_last_map(small):
    model, variables, images, run = small
    pooled, features = jax.jit(model.clone(num_classes=0).apply)(variables, images)
    np.testing.assert_allclose(pooled, features["stage3"].mean((1, 2)), atol=1e-6)
    (logits, _), _ = run(variables, False, None)
    head = variables["params"]["head"]
    np.testing.assert_allclose(pooled @ head["kernel"] + head["bias"], logits, atol=1e-5)


def test_classifier_heads(small):
    """Every head reads the same pooled features; stopping early there are no logits."""
    backbone = small[0].clone(num_classes=0)
    model, images = Classifier(backbone, 7), small[2]
    variables = random_variables(model, images)
    logits, features = jax.jit(model.apply)(variables, images)
    assert {name: leaf.shape for name, leaf in logits.items()} == {"mix": (4, 7), "clean": (4, 7)}
    assert set(variables["params"]) == {"backbone", "head_mix", "head_clean"}
    pooled = features["stage3"].mean((1, 2))
    for name, ours in logits.items():
        head = variables["params"][f"head_{name}"]
        expected = pooled @ head["kernel"] + head["bias"]
        np.testing.assert_allclose(ours, expected, atol=1e-5)
    nothing, features = jax.eval_shape(lambda v: model.apply(v, images, False, "stage2"), variables)
    assert nothing == {}
    assert list(features) == ["stage1", "stage2"]


@pytest.mark.parametrize("train", [True, False])
def test_bfloat16(small, train):
    """Parameters, statistics and logits stay float32, activations do not."""
    model, _, images, _ = small
    half = model.clone(dtype=jnp.bfloat16)
    variables = jax.eval_shape(half.init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}

    def run(variables):
        return half.apply(variables, images, train, mutable=["batch_stats"])

    (logits, features), stats = jax.eval_shape(run, variables)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in features.values()} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {jnp.dtype("float32")}


def test_bfloat16_is_near_float32(small):
    model, variables, images, run = small
    (logits, _), _ = run(variables, False, None)
    half, _ = jax.jit(model.clone(dtype=jnp.bfloat16).apply)(variables, images)
    scale = np.abs(logits).max()
    np.testing.assert_allclose(half, logits, atol=0.05 * scale)  # 8 bits through 8 layers
    assert (half != logits).any()


# -- initial values ----------------------------------------------------------------------------


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_initial_parameters(block):
    """Convolutions N(0, 2 / fan_out), last norm of a block 0, other norms 1, heads N(0, 0.01^2)."""
    if block == "basic":
        model = ResNet((2, 1), BasicBlock, num_classes=100, stem="imagenet", width=16)
    else:
        grouped = functools.partial(Bottleneck, cardinality=8, group_width=8)
        model = ResNet((1, 1), grouped, num_classes=100, stem="cifar", width=32)
    key = jax.random.key(0, impl="rbg")  # compiles faster than the default
    variables = jax.jit(model.init)(key, jnp.zeros((1, 8, 8, 3)))
    last = {"basic": "bn2", "bottleneck": "bn3"}[block]
    kernels = zeros = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        *_, module, name = (entry.key for entry in path)
        if name == "bias":
            np.testing.assert_array_equal(leaf, 0)
        elif name == "scale":
            np.testing.assert_array_equal(leaf, float(module != last))
            zeros += module == last
        else:
            fan_out = np.prod(leaf.shape) / leaf.shape[-2] if leaf.ndim == 4 else None
            std = 0.01 if module == "head" else np.sqrt(2 / fan_out)
            # Five standard errors of a standard deviation, and of a mean.
            np.testing.assert_allclose(leaf.std(), std, rtol=5 / np.sqrt(2 * leaf.size))
            np.testing.assert_allclose(leaf.mean(), 0, atol=5 * std / np.sqrt(leaf.size))
            # A normal, not truncated: beyond two deviations there is 4.6 % of it.
            outside = (np.abs(leaf) > 2 * std).mean()
            np.testing.assert_allclose(outside, 0.0455, atol=5 * np.sqrt(0.0455 / leaf.size))
            kernels += 1
    assert kernels >= 9
    assert zeros == {"basic": 3, "bottleneck": 2}[block]
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["batch_stats"]):
        np.testing.assert_array_equal(leaf, float(path[-1].key == "var"))


# -- convolution and pooling -------------------------------------------------------------------


def windows(x, size, stride, fill):
    """[B, H', W', size, size, C]: PyTorch's windows with padding size // 2 on every side."""
    pad = size // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=fill)
    rows = range(0, x.shape[1] - size + 1, stride)
    columns = range(0, x.shape[2] - size + 1, stride)
    return np.stack(
        [np.stack([x[:, r : r + size, c : c + size] for c in columns], 1) for r in rows], 1
    )


@pytest.mark.parametrize("shape", [(8, 6), (7, 9)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (7, 2), (1, 2), (3, 1)])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolution(float64, shape, kernel, stride, groups):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *shape, 4))
    layer = conv(6, kernel, stride, groups=groups)
    weights = rng.standard_normal((kernel, kernel, 4 // groups, 6))
    assert jax.eval_shape(layer.init, jax.random.key(0), x) == {
        "params": {"kernel": jax.ShapeDtypeStruct(weights.shape, jnp.float32)}
    }
    patches = windows(x, kernel, stride, 0.0)
    halves = zip(np.split(patches, groups, -1), np.split(weights, groups, -1), strict=True)
    expected = np.concatenate([np.einsum("bhwijc,ijcd->bhwd", p, w) for p, w in halves], -1)
    ours = layer.apply({"params": {"kernel": weights}}, x)
    np.testing.assert_allclose(ours, expected, **EXACT)


@pytest.mark.parametrize("shape", [(8, 6), (7, 9)])
def test_max_pool(shape):
    """Padding never wins, even where all values are negative."""
    x = np.random.default_rng(0).standard_normal((2, *shape, 3)).astype(np.float32) - 10
    ours = max_pool(jnp.asarray(x), 3, 2)
    np.testing.assert_array_equal(ours, windows(x, 3, 2, -np.inf).max((3, 4)))


# -- batch norm --------------------------------------------------------------------------------


def normalise(x, scale, bias, groups, epsilon=1e-5):
    """Each part of the batch by its own statistics: (output, means, variances)."""
    parts, means, variances = [], [], []
    for part in np.split(x, groups):
        flat = part.reshape(-1, part.shape[-1])
        means.append(flat.mean(0))
        variances.append(flat.var(0))
        parts.append((part - means[-1]) / np.sqrt(variances[-1] + epsilon) * scale + bias)
    return np.concatenate(parts), np.stack(means), np.stack(variances)


def norm_problem(shape=(6, 2, 3, 4), dtype=np.float64):
    rng = np.random.default_rng(0)
    x = 2 * rng.standard_normal(shape) + np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    scale, bias, mean = rng.standard_normal((3, shape[-1]))
    variables = {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": mean, "var": rng.uniform(0.5, 2, shape[-1])},
    }
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (x, variables))


def train_norm(layer, variables, x):
    return jax.jit(functools.partial(layer.apply, train=True, mutable=["batch_stats"]))(
        variables, x
    )


@pytest.mark.parametrize("shape", [(6, 2, 3, 4), (6, 4)])
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm(float64, groups, unbiased, shape):
    x, variables = norm_problem(shape)
    layer = BatchNorm(groups=groups, momentum=0.8, unbiased=unbiased)
    ours, updated = train_norm(layer, variables, x)
    params, old = variables["params"], variables["batch_stats"]
    expected, means, variances = normalise(np.asarray(x), params["scale"], params["bias"], groups)
    np.testing.assert_allclose(ours, expected, **EXACT)
    size = x.size // groups // x.shape[-1]
    variance = variances.mean(0) * (size / (size - 1) if unbiased else 1)
    new = updated["batch_stats"]
    np.testing.assert_allclose(new["mean"], 0.8 * old["mean"] + 0.2 * means.mean(0), **EXACT)
    np.testing.assert_allclose(new["var"], 0.8 * old["var"] + 0.2 * variance, **EXACT)


def test_batch_norm_in_evaluation(float64):
    """By the running statistics, which stay; the number of groups is of no consequence."""
    x, variables = norm_problem()
    layer = BatchNorm(groups=4)  # six images do not split into four
    ours, updated = layer.apply(variables, x, train=False, mutable=["batch_stats"])
    params, stats = variables["params"], variables["batch_stats"]
    expected = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    np.testing.assert_allclose(ours, expected * params["scale"] + params["bias"], **EXACT)
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], stats)


def test_batch_norm_with_a_large_mean():
    """Mean 100, deviation 0.03: by E[x^2] - E[x]^2 float32 would have no digit of the variance."""
    x = (100 + 0.03 * np.random.default_rng(0).standard_normal((8, 4, 4, 2))).astype(np.float32)
    layer = BatchNorm(momentum=0.0)
    variables = jax.eval_shape(functools.partial(layer.init, train=True), jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), variables)
    ours, updated = train_norm(layer, variables, jnp.asarray(x))
    wide = x.astype(np.float64)
    expected, _, variances = normalise(wide, 1, 1, 1)
    # The mean is stored to 4e-6 of the 0.03, so the deviations are good to about 1e-3.
    np.testing.assert_allclose(updated["batch_stats"]["var"], variances[0], rtol=1e-3)
    np.testing.assert_allclose(ours, expected, atol=1e-3)


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_of_bfloat16(train):
    """Statistics and arithmetic in float32; the output is rounded once."""
    x, variables = norm_problem((8, 8, 8, 4), np.float32)
    x = x.astype(jnp.bfloat16)
    run = functools.partial(BatchNorm().apply, train=train, mutable=["batch_stats"])
    ours, updated = jax.jit(run)(variables, x)
    wide, wide_updated = jax.jit(run)(variables, x.astype(jnp.float32))
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours.astype(jnp.float32), wide, rtol=2**-8, atol=1e-6)
    for a, b in zip(*map(jax.tree.leaves, (updated, wide_updated)), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-6)
    half = BatchNorm(dtype=jnp.bfloat16)
    out = jax.eval_shape(lambda: half.apply(variables, wide, train=False))
    assert out.dtype == jnp.bfloat16


def test_batch_norm_of_a_batch_that_does_not_split():
    x, variables = norm_problem(dtype=np.float32)
    with pytest.raises(ValueError, match="a batch of 6 does not split into 4 groups"):
        BatchNorm(groups=4).apply(variables, x, train=True, mutable=["batch_stats"])


@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_gradients(float64, groups):
    x, variables = norm_problem((4, 2, 3))
    cotangent = np.random.default_rng(1).standard_normal(x.shape)
    layer, params = BatchNorm(groups=groups), variables["params"]

    def ours(x, scale, bias):
        held = variables | {"params": {"scale": scale, "bias": bias}}
        output, _ = layer.apply(held, x, train=True, mutable=["batch_stats"])
        return (output * cotangent).sum()

    def theirs(x, scale, bias):
        return (normalise(x, scale, bias, groups)[0] * cotangent).sum()

    arguments = [np.asarray(a) for a in (x, params["scale"], params["bias"])]
    gradients = jax.jit(jax.grad(ours, argnums=(0, 1, 2)))(*map(jnp.asarray, arguments))
    for i, gradient in enumerate(gradients):

        def at(value, i=i):
            return theirs(*arguments[:i], value, *arguments[i + 1 :])

        # Differences of step 1e-5 are good to about 1e-9.
        np.testing.assert_allclose(
            gradient, central_differences(at, arguments[i]), rtol=1e-7, atol=1e-8
        )
