"""Backbones and their layers: counts, shapes, and PyTorch's conventions in NumPy."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automix_jax.errors import ConfigError
from automix_jax.mixblock import MixBlock
from automix_jax.models import Classifier, create_model, list_models, paper_layer
from automix_jax.models.layers import BatchNorm, Layers, drop_path, max_pool
from automix_jax.models.resnet import BasicBlock, Bottleneck, ResNet
from automix_jax.objective import forward
from tests.reference import central_differences

EXACT = {"rtol": 1e-12, "atol": 1e-12}

# name, stem: parameters without head, channels of the pooled features; published, or counted in
# PyTorch's originals
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
    ("wrn28_8", ""): (23_357_792, 512),
    ("wrn28_10", ""): (36_482_880, 640),
    ("mobilenet_v2", ""): (2_223_872, 1280),
    ("efficientnet_b0", ""): (4_007_548, 1280),
    ("convnext_t", "imagenet"): (27_820_128, 768),
    ("convnext_t", "cifar"): (27_818_112, 768),
    ("convnext_s", "imagenet"): (49_454_688, 768),
    ("deit_t", ""): (5_524_416, 192),
    ("deit_s", ""): (21_665_664, 384),
    ("deit_b", ""): (85_798_656, 768),
    ("swin_t", ""): (27_519_354, 768),
    ("swin_s", ""): (48_837_258, 768),
}
# totals as published, for 10, 100, 200 and 1000 classes
TOTALS = {
    ("resnet18", "cifar"): (11_173_962, 11_220_132, 11_271_432, 11_681_832),
    ("resnet34", "cifar"): (21_282_122, 21_328_292, 21_379_592, 21_789_992),
    ("resnet50", "cifar"): (23_520_842, 23_705_252, 23_910_152, 25_549_352),
    ("resnext50_32x4d", "cifar"): (22_992_714, 23_177_124, 23_382_024, 25_021_224),
    ("resnext101_32x4d", "cifar"): (42_141_514, 42_325_924, 42_530_824, 44_170_024),
    ("resnet18", "imagenet"): (11_181_642, 11_227_812, 11_279_112, 11_689_512),
    ("resnet34", "imagenet"): (21_289_802, 21_335_972, 21_387_272, 21_797_672),
    ("resnet50", "imagenet"): (23_528_522, 23_712_932, 23_917_832, 25_557_032),
    ("resnet101", "imagenet"): (42_520_650, 42_705_060, 42_909_960, 44_549_160),
    ("resnext50_32x4d", "imagenet"): (23_000_394, 23_184_804, 23_389_704, 25_028_904),
    ("resnext101_32x4d", "imagenet"): (42_149_194, 42_333_604, 42_538_504, 44_177_704),
    ("wrn28_8", ""): (23_362_922, 23_409_092, 23_460_392, None),
    ("mobilenet_v2", ""): (2_236_682, 2_351_972, 2_480_072, 3_504_872),
    ("efficientnet_b0", ""): (4_020_358, 4_135_648, 4_263_748, 5_288_548),
    ("convnext_t", "imagenet"): (27_827_818, 27_897_028, 27_973_928, 28_589_128),
    ("convnext_t", "cifar"): (27_825_802, 27_895_012, 27_971_912, None),
    ("deit_s", ""): (21_669_514, 21_704_164, 21_742_664, 22_050_664),
    ("swin_t", ""): (27_527_044, 27_596_254, 27_673_154, 28_288_354),
}
CLASSES = (10, 100, 200, 1000)


@functools.cache
def shapes(name, stem, num_classes, size=224):
    """(outputs, variables) as shapes; nothing is computed."""
    options = {"stem": stem} if stem else {}
    model = create_model(name, num_classes=num_classes, **options)
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
    assert paper_layer(name) in features
    published = TOTALS.get((name, stem), (None,) * len(CLASSES))
    for classes, total in zip(CLASSES, published, strict=True):
        assert total in (None, expected + channels * classes + classes)


@pytest.mark.parametrize("classes", [10, 100, 200, 1000])
@pytest.mark.parametrize(("name", "stem"), [("resnet8", "imagenet"), *TOTALS])
def test_parameter_counts_with_the_models_own_head(name, stem, classes):
    (logits, _), variables = shapes(name, stem, classes, 32)
    backbone, channels = COUNTS[name, stem]
    if name == "deit_s":
        backbone -= (14 * 14 - 2 * 2) * channels  # positions
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
        ("convnext_t", "imagenet", 224, (56, 28, 14, 7)),
        ("convnext_t", "cifar", 32, (32, 16, 8, 4)),
    ],
)
def test_feature_maps(name, stem, size, sides):
    (_, features), _ = shapes(name, stem, 0, size)
    first = {"resnet18": 64, "resnet50": 256}.get(name, 96)
    expected = {f"stage{i + 1}": (first * 2**i, side) for i, side in enumerate(sides)}
    expected["stem"] = (64 if name.startswith("resnet") else 96, sides[0])
    assert widths_and_sides(features) == expected


OTHER_MAPS = {
    ("wrn28_8", "", 32): {
        "stem": (16, 32), "stage1": (128, 32), "stage2": (256, 16), "stage3": (512, 8)
    },
    ("mobilenet_v2", "", 224): {
        "stem": (32, 112), "stage1": (16, 112), "stage2": (24, 56), "stage3": (32, 28),
        "stage4": (64, 14), "stage5": (96, 14), "stage6": (160, 7), "stage7": (320, 7),
        "stage8": (1280, 7),
    },
    ("efficientnet_b0", "", 224): {
        "stem": (32, 112), "stage1": (16, 112), "stage2": (24, 56), "stage3": (40, 28),
        "stage4": (80, 14), "stage5": (112, 14), "stage6": (192, 7), "stage7": (320, 7),
        "stage8": (1280, 7),
    },
    ("deit_s", "", 224): {f"block{i + 1}": (384, 14) for i in range(12)},
    ("swin_t", "", 224): {
        "stem": (96, 56), "stage1": (96, 56), "merge1": (192, 28), "stage2": (192, 28),
        "merge2": (384, 14), "stage3": (384, 14), "merge3": (768, 7), "stage4": (768, 7),
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "stem", "size"), OTHER_MAPS)
def test_other_feature_maps(name, stem, size):
    (_, features), _ = shapes(name, stem, 0, size)
    attention = features.pop("attention", None)
    if attention is not None:
        assert widths_and_sides({"attention": attention}) == {"attention": (1, size // 16)}
    assert (attention is not None) == name.startswith("deit")
    assert widths_and_sides(features) == OTHER_MAPS[name, stem, size]


def widths_and_sides(features):
    return {name: (leaf.shape[3], leaf.shape[1]) for name, leaf in features.items()}


# MixBlock with one projection each for query and key and without the ratio's channel: trunk, two
# heads of 200 classes and MixBlock. RX-50's first two layers in the paper are stem and stage 1.
TABLE_9 = {
    "resnet18": {
        "stage1": 11_378_257, "stage2": 11_390_673, "stage3": 11_440_081, "stage4": 11_637_201
    },
    "resnext50_32x4d": {
        "stem": 23_796_049, "stage1": 23_857_873, "stage3": 24_842_449, "stage4": 27_990_225
    },
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE_9)
def test_parameters_of_table_9(name):
    (_, features), variables = shapes(name, "cifar", 0, 64)
    heads = 2 * 200 * (COUNTS[name, "cifar"][1] + 1)
    block = MixBlock(share_qk=False, lam_embed="none")
    for layer, total in TABLE_9[name].items():
        features_of_layer = jnp.zeros((1, 2, 2, features[layer].shape[-1]))
        init = functools.partial(block.init, method="project")
        mixblock = jax.eval_shape(init, jax.random.key(0), features_of_layer)
        assert count(variables["params"]) + heads + count(mixblock) == total


def test_unknown_models():
    with pytest.raises(ConfigError, match=r"'resnet81' is not known\. Did you mean 'resnet8'"):
        create_model("resnet81")
    with pytest.raises(ConfigError, match=r"'vit' is not known\..* Use resnet8, "):
        create_model("vit")
    with pytest.raises(ConfigError, match=r"'resnet18' has no option 'depth'.*takes bn_momentum"):
        create_model("resnet18", depth=3)
    with pytest.raises(ConfigError, match=r"'swin_t' has no option 'dropuot'.* mean 'dropout'"):
        create_model("swin_t", dropuot=0.1)
    with pytest.raises(ConfigError, match="'vit' is not known"):
        paper_layer("vit")


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
    assert set(features) == {"stem"} | {f"stage{i}" for i in range(1, stage + 1)}
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
    for name in ("stage4", "pooled", ""):
        with pytest.raises(ValueError, match=f"stop_at is '{name}': .*stem, stage1, stage2"):
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
    assert set(features) == {"stem", "stage1", "stage2"}


FAMILIES = (
    "resnet8",
    "resnext50_32x4d",
    "wrn28_8",
    "mobilenet_v2",
    "efficientnet_b0",
    "convnext_t",
    "deit_t",
    "swin_t",
)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16(name, train):
    """Parameters, statistics, logits and softmax stay float32, activations do not."""
    half = create_model(name, num_classes=5, dtype=jnp.bfloat16)
    images = jnp.zeros((2, 32, 32, 3))
    variables = jax.eval_shape(half.init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}

    def run(variables):
        return half.apply(variables, images, train, mutable=["batch_stats"])

    (logits, features), stats = jax.eval_shape(run, variables)
    assert logits.dtype == jnp.float32
    if name.startswith("deit"):
        assert features.pop("attention").dtype == jnp.float32
    assert {leaf.dtype for leaf in features.values()} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(stats)} <= {jnp.dtype("float32")}
    pooled = jax.eval_shape(lambda v: half.clone(num_classes=0).apply(v, images)[0], variables)
    assert pooled.dtype == jnp.float32


@pytest.mark.parametrize(("name", "width"), [("resnet8", 4), ("deit_t", 24), ("swin_t", 24)])
def test_bfloat16_is_near_float32(name, width):
    model = create_model(name, num_classes=5, width=width)
    images = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
    variables = random_variables(model, images)
    logits, _ = jax.jit(model.apply)(variables, images)
    half, _ = jax.jit(model.clone(dtype=jnp.bfloat16).apply)(variables, images)
    scale = np.abs(logits).max()
    np.testing.assert_allclose(half, logits, atol=0.05 * scale)  # 8 bits through the layers
    assert (half != logits).any()


# -- initial values ----------------------------------------------------------------------------


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_initial_parameters(block):
    """Convolutions N(0, 2 / fan_out), last norm of a block 0, other norms 1, heads N(0, 0.01^2)."""
    if block == "basic":
        options = {"stage_sizes": (2, 1), "block": BasicBlock, "stem": "imagenet", "width": 16}
    else:
        grouped = functools.partial(Bottleneck, cardinality=8, group_width=8)
        options = {"stage_sizes": (1, 1), "block": grouped, "stem": "cifar", "width": 32}
    model = ResNet(num_classes=100, **options)
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


class Made(nn.Module):
    """A module that applies layers of `Layers`."""

    apply_layers: Callable[[Layers, jax.Array], jax.Array]
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, x):
        return self.apply_layers(self.layers, x)


@pytest.mark.parametrize("shape", [(8, 6), (7, 9)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (7, 2), (1, 2), (3, 1)])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolution(float64, shape, kernel, stride, groups):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, *shape, 4)))
    layer = Made(lambda make, x: make.conv(x, 6, kernel, stride, groups=groups, name="conv"))
    weights = rng.standard_normal((kernel, kernel, 4 // groups, 6))
    assert jax.eval_shape(layer.init, jax.random.key(0), x) == {
        "params": {"conv": {"kernel": jax.ShapeDtypeStruct(weights.shape, jnp.float32)}}
    }
    patches = windows(np.asarray(x), kernel, stride, 0.0)
    halves = zip(np.split(patches, groups, -1), np.split(weights, groups, -1), strict=True)
    expected = np.concatenate([np.einsum("bhwijc,ijcd->bhwd", p, w) for p, w in halves], -1)
    ours = layer.apply({"params": {"conv": {"kernel": weights}}}, x)
    np.testing.assert_allclose(ours, expected, **EXACT)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "groups"), [(1, 1), (3, 2), (3, 4), (3, 8)])
def test_gradients_of_convolutions_are_those_of_jax(float64, kernel, groups, stride):
    """On a CPU 1 x 1 and grouped convolutions have rules of their own; under vmap too."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((3, 2, 7, 8, 8)))  # three groups of a batch
    weights = jnp.asarray(rng.standard_normal((kernel, kernel, 8 // groups, 16)))
    layer = Made(lambda make, x: make.conv(x, 16, kernel, stride, groups=groups, name="conv"))

    def ours(x, weights):
        run = jax.vmap(lambda x: layer.apply({"params": {"conv": {"kernel": weights}}}, x))
        return jnp.sin(run(x)).sum()

    def theirs(x, weights):
        out = jax.lax.conv_general_dilated(
            x.reshape(6, 7, 8, 8),
            weights,
            (stride, stride),
            [(kernel // 2, kernel // 2)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        return jnp.sin(out).sum()

    for mine, jaxs in zip(
        jax.grad(ours, (0, 1))(x, weights), jax.grad(theirs, (0, 1))(x, weights), strict=True
    ):
        np.testing.assert_allclose(mine, jaxs, rtol=1e-11, atol=1e-11)  # sums of a hundred terms


@pytest.mark.parametrize("shape", [(8, 6), (7, 9)])
def test_max_pool(shape):
    """Padding never wins, even where all values are negative."""
    x = np.random.default_rng(0).standard_normal((2, *shape, 3)).astype(np.float32) - 10
    ours = max_pool(jnp.asarray(x), 3, 2)
    np.testing.assert_array_equal(ours, windows(x, 3, 2, -np.inf).max((3, 4)))


# -- batch norm --------------------------------------------------------------------------------


def normalise(x, scale, bias, epsilon=1e-5):
    """By the statistics of the batch: (output, mean, variance)."""
    flat = x.reshape(-1, x.shape[-1])
    mean, variance = flat.mean(0), flat.var(0)
    return (x - mean) / np.sqrt(variance + epsilon) * scale + bias, mean, variance


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
def test_batch_norm(float64, unbiased, shape):
    x, variables = norm_problem(shape)
    layer = BatchNorm(momentum=0.8, unbiased=unbiased)
    ours, updated = train_norm(layer, variables, x)
    params, old = variables["params"], variables["batch_stats"]
    expected, mean, variance = normalise(np.asarray(x), params["scale"], params["bias"])
    np.testing.assert_allclose(ours, expected, **EXACT)
    size = x.size // x.shape[-1]
    variance = variance * (size / (size - 1) if unbiased else 1)
    new = updated["batch_stats"]
    np.testing.assert_allclose(new["mean"], 0.8 * old["mean"] + 0.2 * mean, **EXACT)
    np.testing.assert_allclose(new["var"], 0.8 * old["var"] + 0.2 * variance, **EXACT)


def test_batch_norm_in_evaluation(float64):
    """By the running statistics, which stay."""
    x, variables = norm_problem()
    layer = BatchNorm()
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
    expected, _, variance = normalise(wide, 1, 1)
    # The mean is stored to 4e-6 of the 0.03, so the deviations are good to about 1e-3.
    np.testing.assert_allclose(updated["batch_stats"]["var"], variance, rtol=1e-3)
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


def test_batch_norm_gradients(float64):
    x, variables = norm_problem((4, 2, 3))
    cotangent = np.random.default_rng(1).standard_normal(x.shape)
    layer, params = BatchNorm(), variables["params"]

    def ours(x, scale, bias):
        held = variables | {"params": {"scale": scale, "bias": bias}}
        output, _ = layer.apply(held, x, train=True, mutable=["batch_stats"])
        return (output * cotangent).sum()

    def theirs(x, scale, bias):
        return (normalise(x, scale, bias)[0] * cotangent).sum()

    arguments = [np.asarray(a) for a in (x, params["scale"], params["bias"])]
    gradients = jax.jit(jax.grad(ours, argnums=(0, 1, 2)))(*map(jnp.asarray, arguments))
    for i, gradient in enumerate(gradients):

        def at(value, i=i):
            return theirs(*arguments[:i], value, *arguments[i + 1 :])

        # Differences of step 1e-5 are good to about 1e-9.
        np.testing.assert_allclose(
            gradient, central_differences(at, arguments[i]), rtol=1e-7, atol=1e-8
        )


# -- groups of a batch, dropout and drop path --------------------------------------------------


def test_groups_are_networks_of_their_own(small):
    """Outputs of each group by its own statistics and key; running statistics are their mean."""
    model = Classifier(small[0].clone(num_classes=0, drop_path=0.5, dropout=0.5), 7, ("mix",))
    variables = random_variables(model, small[2])
    images = jnp.concatenate([small[2], 3 + small[2]])
    rngs = jax.random.split(jax.random.key(3), 2)
    run = jax.jit(lambda *arguments: forward(model, *arguments))
    params, stats = variables["params"], variables["batch_stats"]
    logits, features, together = run(params, stats, images, rngs)
    alone = [run(params, stats, images[4 * i : 4 * i + 4], rngs[i : i + 1]) for i in range(2)]
    # Other programs, other fusions: float32 rounding.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    close(logits["mix"], jnp.concatenate([half[0]["mix"] for half in alone]))
    close(features["stage3"], jnp.concatenate([half[1]["stage3"] for half in alone]))
    jax.tree.map(lambda a, b, c: close(a, (b + c) / 2), together, alone[0][2], alone[1][2])
    assert np.abs(features["stage3"][:4] - features["stage3"][4:]).max() > 0.1


def test_drop_path():
    """Whole images, with the rate as probability; what stays is scaled up."""
    layer = Made(lambda make, x: drop_path(x, 0.25, True))
    x = 1 + jax.random.uniform(jax.random.key(0), (4000, 2, 3))
    out = layer.apply({}, x, rngs={"dropout": jax.random.key(1)})
    dropped = (out == 0).all((1, 2))
    np.testing.assert_allclose(dropped.mean(), 0.25, atol=5 * np.sqrt(0.25 * 0.75 / 4000))
    kept = jnp.where(dropped[:, None, None], 0, x / 0.75)
    np.testing.assert_allclose(out, kept, rtol=1e-6)
    np.testing.assert_array_equal(Made(lambda make, x: drop_path(x, 0.25, False)).apply({}, x), x)


@pytest.mark.parametrize("name", ["resnet8", "wrn28_8", "mobilenet_v2", "convnext_t", "swin_t"])
def test_drop_path_rises_block_by_block(name, monkeypatch):
    seen = []

    def spy(x, rate, train):
        seen.append(rate)
        return x

    for module in ("resnet", "wide_resnet", "mobile", "convnext", "transformer"):
        monkeypatch.setattr(f"automix_jax.models.{module}.drop_path", spy)
    model = create_model(name, num_classes=0, drop_path=0.3)
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert seen == sorted(seen)
    rates = sorted(set(seen))
    if name == "mobilenet_v2":  # the first of its 17 blocks and the last have nothing to drop
        assert seen[0] >= 0.3 / 16
        assert seen[-1] == pytest.approx(0.3 * 15 / 16)
    else:
        assert (rates[0], rates[-1]) == (0, pytest.approx(0.3))
        np.testing.assert_allclose(np.diff(rates), 0.3 / (len(rates) - 1))


# -- initial values by name --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("resnet8", "deit_t"),
        *(pytest.param(n, marks=pytest.mark.long) for n in ("wrn28_8", "efficientnet_b0")),
        pytest.param("convnext_t", marks=pytest.mark.long),
    ],
)
def test_torch_default_initialisation(name):
    """Kernels and biases U(-b, b) with b = 1 / sqrt(fan-in); scales one, tables zero."""
    model = create_model(name, num_classes=10, init_scheme="torch_default")
    key = jax.random.key(0, impl="rbg")
    params = jax.jit(model.init)(key, jnp.zeros((1, 32, 32, 3)))["params"]
    kernels = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        parent = functools.reduce(lambda tree, entry: tree[entry.key], path[:-1], params)
        if "kernel" in parent:
            bound = 1 / np.sqrt(np.prod(parent["kernel"].shape[:-1]))
            assert np.abs(leaf).max() <= bound * (1 + 1e-6)
            # A uniform's deviation is bound / sqrt(3), to five standard errors.
            if leaf.size > 50:
                deviation = bound / np.sqrt(3)
                np.testing.assert_allclose(
                    leaf.std(), deviation, rtol=5 * 0.45 / np.sqrt(leaf.size)
                )
                np.testing.assert_allclose(leaf.mean(), 0, atol=5 * deviation / np.sqrt(leaf.size))
            kernels += path[-1].key == "kernel"
        else:
            value = {"scale": 1.0, "gamma": np.float32(1e-6)}.get(path[-1].key, 0.0)
            np.testing.assert_array_equal(leaf, value)
    assert kernels > 8


@pytest.mark.parametrize(
    "name", [pytest.param("convnext_t", marks=pytest.mark.long), "deit_t", "swin_t"]
)
def test_initial_parameters_of_transformers(name):
    """N(0, 0.02^2), but patches as PyTorch leaves them and ConvNeXt's head N(0, 0.01^2)."""
    model = create_model(name, num_classes=100, width=24)
    key = jax.random.key(0, impl="rbg")
    params = jax.jit(model.init)(key, jnp.zeros((1, 32, 32, 3)))["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [entry.key for entry in path]
        if names[0] == "patch":
            assert np.abs(leaf).max() * np.sqrt(np.prod(params["patch"]["kernel"].shape[:3])) > 0.9
        elif names[-1] in ("kernel", "bias_table", "cls", "positions"):
            std = 0.01 if names[0] == "head" and name == "convnext_t" else 0.02
            np.testing.assert_allclose(leaf.std(), std, rtol=5 / np.sqrt(2 * leaf.size))
        else:
            value = {"scale": 1.0, "gamma": np.float32(1e-6)}.get(names[-1], 0.0)
            np.testing.assert_array_equal(leaf, value)


# -- images that do not suit -------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size", "patch"), [("deit_t", 40, 16), ("swin_t", 30, 4)])
def test_images_that_do_not_divide_into_patches(name, size, patch):
    images = jnp.zeros((1, size, size, 3))
    with pytest.raises(ValueError, match=f"{size} x {size} do not divide into patches of {patch}"):
        jax.eval_shape(create_model(name).init, jax.random.key(0), images)
