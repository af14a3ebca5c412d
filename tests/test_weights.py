"""Weights of other libraries become ours and go back, bit by bit, or are refused by name."""

import functools
import hashlib
import json
import os
import pickle
import re
import sys
import zipfile

import flax.traverse_util
import jax
import jax.numpy as jnp
import jaxtyping
import ml_dtypes
import numpy as np
import pytest

from automix_jax import cli, weights
from automix_jax.errors import ConfigError, WeightsError
from automix_jax.models import create_model, list_models
from automix_jax.weights import layout
from automix_jax.weights.convert import fit, from_state_dict, to_state_dict
from automix_jax.weights.folder import read_file, sha256
from automix_jax.weights.names import namings
from tests import originals

SMALL = {"stem": "cifar", "width": 4}  # a resnet8 of 5,180 parameters


@pytest.fixture(scope="module", autouse=True)
def shapes_are_traced_once():
    """The same networks are asked for their shapes again and again.

    Without the checks of the networks' own annotations, of which `test_models.py` makes use.
    """
    shapes = layout.variable_shapes

    @functools.cache
    def traced(model, size, channels=3):
        jaxtyping.config.update("jaxtyping_disable", True)
        try:
            return shapes(model, size, channels)
        finally:
            jaxtyping.config.update("jaxtyping_disable", False)

    with pytest.MonkeyPatch.context() as patch:
        for name, module in tuple(sys.modules.items()):
            if name.startswith("automix_jax.weights.") and hasattr(module, "variable_shapes"):
                patch.setattr(module, "variable_shapes", traced)
        yield


def filled(model, size, fill):
    """Variables whose arrays `fill` makes of (path, shape)."""
    shapes = layout.variable_shapes(model, (size, size))
    return flax.traverse_util.unflatten_dict({path: fill(path, s) for path, s in shapes.items()})


def draw(model, size=32):
    """Random variables, so that no array can be mistaken for another."""
    rng = np.random.default_rng(0)

    def fill(path, shape):
        value = rng.standard_normal(shape).astype(np.float32)
        return np.abs(value) if path[-1] == "var" else value

    return filled(model, size, fill)


def names_and_shapes(model, size, naming=None):
    """Of the state dict of a model; of bytes, as deit_b has many numbers."""
    zeros = filled(model, size, lambda path, shape: np.zeros(shape, np.int8))
    return {name: value.shape for name, value in to_state_dict(model, zeros, naming).items()}


def assert_same(found, expected):
    found, expected = map(flax.traverse_util.flatten_dict, (found, expected))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        assert found[path].dtype == np.float32 and found[path].shape == value.shape, path
        assert found[path].tobytes() == value.tobytes(), path


@pytest.fixture(scope="module")
def small():
    """A narrow resnet8 for ten classes, its variables and its state dict."""
    model = create_model("resnet8", num_classes=10, **SMALL)
    variables = draw(model)
    return model, variables, to_state_dict(model, variables)


@pytest.fixture
def tensors():
    """The state dict of a resnet8 for ten classes, to be damaged."""
    model = create_model("resnet8", num_classes=10, stem="cifar")
    return to_state_dict(model, draw(model))


# -- names -------------------------------------------------------------------------------------

# One case of each original, the largest: below 224, timm shrinks Swin's tables. The CIFAR stems are
# left out: `test_backbones.py` reads weights of every one.
CASES = {(case.name, case.stem): case for case in originals.CASES if case.stem != "cifar"}
FACEBOOK = {"downsample_layers.0.0", "downsample_layers.0.1", "norm", "head"}
FACEBOOK |= {f"downsample_layers.{i}.{layer}" for i in (1, 2, 3) for layer in (0, 1)}
CONVNEXT_BLOCK = ("dwconv", "norm", "pwconv1", "pwconv2")
MICROSOFT = {"patch_embed.proj", "patch_embed.norm", "norm", "head"}
MICROSOFT |= {f"layers.{i}.downsample.norm" for i in range(3)}
SWIN_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


def with_biases(layers):
    return {f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias")}


def options_of(case):
    if case.stem in ("imagenet", "cifar"):
        return {"stem": case.stem}
    return {"convention": case.stem} if case.stem in ("torch", "tf") else {}


def naming_of(case):
    others = {"wrn28_8": "plain", "wrn28_10": "plain"}
    if case.stem in ("timm", "tf") or case.name.startswith(("convnext", "deit", "swin")):
        return "timm"
    return others.get(case.name, "torchvision")


@pytest.mark.parametrize("network", CASES, ids="/".join)
def test_names_and_shapes_are_the_originals(network):
    """Which are recorded for ten classes; ours are the networks that suggestions look at too."""
    case = CASES[network]
    recorded = originals.recorded().cases[case.key].shapes
    expected = {
        name: (1000, *shape[1:]) if re.match("(fc|head|classifier).*", name) and shape[0] == 10
        else shape
        for name, shape in recorded.items()
    }  # fmt: skip
    model = create_model(case.name, **options_of(case))
    assert names_and_shapes(model, 224, naming_of(case)) == expected


def test_names_of_resnet8_are_resnet18s():
    """Which has a stage more, and twice the blocks."""
    expected = originals.recorded().cases["resnet18/cifar/32"].shapes
    found = names_and_shapes(create_model("resnet8", num_classes=10, stem="cifar"), 32)
    assert set(found) == {
        name for name in expected if not re.match(r"layer4|layer\d\.1", name)
    }  # fmt: skip


@pytest.mark.parametrize(("name", "sizes"), [("convnext_t", (3, 3, 9, 3)),
                                             ("convnext_s", (3, 3, 27, 3))])  # fmt: skip
def test_names_of_facebook(name, sizes):
    found = names_and_shapes(create_model(name, num_classes=10), 32, "facebook")
    blocks = {f"stages.{i}.{j}" for i, size in enumerate(sizes) for j in range(size)}
    layers = {f"{block}.{layer}" for block in blocks for layer in CONVNEXT_BLOCK}
    gammas = {f"{block}.gamma" for block in blocks}
    assert set(found) == with_biases(FACEBOOK | layers) | gammas
    known = {
        "downsample_layers.0.0.weight": (96, 3, 4, 4),
        "downsample_layers.1.0.weight": (96,),
        "downsample_layers.1.1.weight": (192, 96, 2, 2),
        "stages.0.0.dwconv.weight": (96, 1, 7, 7),
        "stages.0.0.pwconv1.weight": (384, 96),
        "stages.0.0.pwconv2.weight": (96, 384),
        "stages.3.2.gamma": (768,),
        "norm.weight": (768,),
        "head.weight": (10, 768),
    }
    assert {name: found[name] for name in known} == known


@pytest.mark.parametrize(("name", "sizes"), [("swin_t", (2, 2, 6, 2)),
                                             ("swin_s", (2, 2, 18, 2))])  # fmt: skip
def test_names_of_microsoft(name, sizes):
    """timm's but for the classifier, and a downsampling at the end of a layer, not the start."""
    found = names_and_shapes(create_model(name, num_classes=10), 32, "microsoft")
    blocks = {f"layers.{i}.blocks.{j}" for i, size in enumerate(sizes) for j in range(size)}
    layers = {f"{block}.{layer}" for block in blocks for layer in SWIN_BLOCK}
    others = {f"{block}.attn.relative_position_bias_table" for block in blocks}
    others |= {f"layers.{i}.downsample.reduction.weight" for i in range(3)}
    assert set(found) == with_biases(MICROSOFT | layers) | others
    known = {
        "layers.0.downsample.norm.weight": (384,),
        "layers.0.downsample.reduction.weight": (192, 384),
        "layers.2.downsample.reduction.weight": (768, 1536),
        "head.weight": (10, 768),
    }
    assert {name: found[name] for name in known} == known


def test_every_naming_of_every_model_is_covered_above():
    covered = {(case.name, naming_of(case)) for case in CASES.values()}
    covered |= {("resnet8", "torchvision")}
    covered |= {(f"convnext_{size}", "facebook") for size in "ts"}
    covered |= {(f"swin_{size}", "microsoft") for size in "ts"}
    known = {(name, style) for name in list_models() for style in namings(create_model(name))}
    assert known == covered


def test_an_unknown_naming_is_refused(small):
    model, variables, _ = small
    with pytest.raises(WeightsError, match="naming 'timm' is not one of this network's: use torch"):
        to_state_dict(model, variables, "timm")


# -- round trips -------------------------------------------------------------------------------

# Every family, as narrow as its class allows.
FAMILIES = {
    "resnet8": {"stem": "cifar", "width": 4},
    "resnet50": {"stem": "cifar", "width": 4},
    "resnext50_32x4d": {"stem": "imagenet", "width": 16},
    "wrn28_8": {"width": 4, "blocks": 2},
    "mobilenet_v2": {"convention": "torch"},
    "efficientnet_b0": {"convention": "torch"},
    "convnext_t": {"stem": "imagenet", "width": 4},
    "deit_t": {"width": 12, "heads": 3, "blocks": 2},
    "swin_t": {"width": 6, "heads": 3},
}
NAMED = [(name, style) for name, options in FAMILIES.items()
         for style in namings(create_model(name, **options))]  # fmt: skip


@pytest.mark.parametrize(("name", "naming"), NAMED)
def test_round_trip_gives_the_same_bits(name, naming):
    size = 64 if name == "deit_t" else 224
    model = create_model(name, num_classes=3, **FAMILIES[name])
    variables = draw(model, size)
    found, report = from_state_dict(to_state_dict(model, variables, naming), name, **FAMILIES[name])
    assert_same(found.variables, variables)
    assert report.naming == naming
    assert report.missing == report.left_over == () and report.dtypes == {}
    assert len(report.matched) == len(flax.traverse_util.flatten_dict(variables))
    assert found.name == name and found.num_classes == 3 and found.options == FAMILIES[name]
    assert found.image_size == size
    assert found.model() == model
    assert found.model(dropout=0.1) == model.clone(dropout=0.1)


@pytest.mark.parametrize("classes", [1, 7])
def test_the_classifier_tells_its_size(classes):
    model = create_model("resnet8", num_classes=classes, **SMALL)
    variables = draw(model)
    found, _ = from_state_dict(to_state_dict(model, variables), "resnet8", width=4)
    assert found.num_classes == classes
    assert_same(found.variables, variables)


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v2", "convnext_t"])
def test_without_a_classifier(name):
    model = create_model(name, num_classes=0, **FAMILIES[name])
    variables = draw(model)
    found, report = from_state_dict(to_state_dict(model, variables), name, **FAMILIES[name])
    assert found.num_classes == 0 and "head" not in found.variables["params"]
    assert_same(found.variables, variables)
    head = {"resnet8": "fc", "mobilenet_v2": "classifier.1"}.get(name, "head.fc")
    assert set(report.missing) == {f"{head}.weight", f"{head}.bias"}


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("name", ["resnet8", "convnext_t"])
def test_the_stem_is_found(name, stem):
    model = create_model(name, num_classes=3, width=4, stem=stem)
    variables = draw(model)
    found, _ = from_state_dict(to_state_dict(model, variables), name, width=4)
    assert found.options == {"width": 4, "stem": stem}
    assert_same(found.variables, variables)


@pytest.fixture(scope="module")
def efficientnet():
    """Variables of an EfficientNet-B0, and the state dict in the names of both libraries."""
    model = create_model("efficientnet_b0", num_classes=3, convention="torch")
    variables = draw(model)
    return variables, {name: to_state_dict(model, variables, name) for name in namings(model)}


def test_torchvisions_names_tell_the_convention(efficientnet):
    variables, states = efficientnet
    for options in ({}, {"convention": "torch"}):
        found, report = from_state_dict(states["torchvision"], "efficientnet_b0", **options)
        assert found.options == {"convention": "torch"} and report.naming == "torchvision"
        assert_same(found.variables, variables)
    with pytest.raises(WeightsError, match="trained with convention='torch', not 'tf'"):
        from_state_dict(states["torchvision"], "efficientnet_b0", convention="tf")


def test_a_network_of_tensorflows_convention_does_not_become_torchvisions():
    """torchvision's names promise its padding: writing or reading has to refuse."""
    model = create_model("efficientnet_b0", num_classes=3, convention="tf")
    with pytest.raises(WeightsError):
        from_state_dict(to_state_dict(model, draw(model), "torchvision"), "efficientnet_b0")


def test_timms_names_do_not_tell_the_convention(efficientnet):
    variables, states = efficientnet
    with pytest.raises(WeightsError, match="'tf' for a file of tf_efficientnet_b0 and 'torch' for"):
        from_state_dict(states["timm"], "efficientnet_b0")
    for convention in ("torch", "tf"):
        found, report = from_state_dict(states["timm"], "efficientnet_b0", convention=convention)
        assert found.options == {"convention": convention} and report.naming == "timm"
        assert_same(found.variables, variables)


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.", "encoder_q.",
                                    "module.encoder_q.", "module.model."])  # fmt: skip
def test_prefixes_of_wrappers_are_taken_off(small, prefix):
    _, variables, state = small
    wrapped = {prefix + name: value for name, value in state.items()}
    found, report = from_state_dict(wrapped, "resnet8", width=4)
    assert_same(found.variables, variables)
    assert set(report.matched) == {name for name in state if "num_batches" not in name}


def test_the_other_networks_of_a_file_are_left_over(small):
    """As in MoCo's files: the encoder that is trained, its average, and more."""
    _, variables, state = small
    file = {f"module.encoder_q.{name}": value for name, value in state.items()}
    file |= {f"module.encoder_k.{name}": 0 * value for name, value in state.items()}
    file["module.queue"] = np.zeros((2, 3), np.float32)
    found, report = from_state_dict(file, "resnet8", width=4)
    assert_same(found.variables, variables)
    others = {f"encoder_k.{name}" for name in state if "num_batches" not in name}
    assert set(report.left_over) == others | {"queue"} and report.missing == ()


def test_two_tensors_of_one_name_are_refused(small):
    _, _, state = small
    twice = {**state, "module.conv1.weight": np.zeros_like(state["conv1.weight"])}
    with pytest.raises(WeightsError, match=r"conv1\.weight"):
        from_state_dict(twice, "resnet8", width=4)


def test_buffers_are_passed_over():
    model = create_model("swin_t", num_classes=3, **FAMILIES["swin_t"])
    variables = draw(model)
    state = to_state_dict(model, variables)
    buffers = {
        "layers.0.blocks.0.attn.relative_position_index": np.zeros((49, 49), np.int64),
        "layers.0.blocks.1.attn_mask": np.full((4, 49, 49), np.nan, np.float32),
        "patch_embed.norm.num_batches_tracked": np.zeros((), np.int64),
    }
    found, report = from_state_dict({**buffers, **state}, "swin_t", **FAMILIES["swin_t"])
    assert_same(found.variables, variables)
    assert set(report.matched) == set(state) and report.left_over == () and report.dtypes == {}


@pytest.mark.parametrize("name", ["resnet8", "deit_t"])
def test_networks_of_gray_images(tmp_path, name):
    model = create_model(name, num_classes=3, **FAMILIES[name])
    images = jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), shapes)
    found, _ = from_state_dict(to_state_dict(model, variables), name, **FAMILIES[name])
    assert_same(found.variables, variables)
    weights.save(tmp_path / "out", found)
    assert_same(weights.load(tmp_path / "out").variables, variables)


def test_counts_of_batches_may_be_absent(small):
    _, variables, state = small
    found, _ = from_state_dict(
        {name: value for name, value in state.items() if "num_batches" not in name},
        "resnet8",
        width=4,
    )
    assert_same(found.variables, variables)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_storage_is_cast_and_named(small, dtype):
    """All numbers of the two smaller kinds are float32's; float64's are rounded to them."""
    _, _, state = small
    stored = ("conv1.weight", "bn1.running_var", "fc.weight")
    digits = np.random.default_rng(1)
    cast = {name: np.abs(digits.standard_normal(state[name].shape)).astype(dtype)
            for name in stored}  # fmt: skip
    found, report = from_state_dict({**state, **cast}, "resnet8", width=4)
    assert {kind: set(names) for kind, names in report.dtypes.items()} == {
        np.dtype(dtype).name: set(stored)
    }
    expected = state | {name: value.astype(np.float32) for name, value in cast.items()}
    again = to_state_dict(found.model(), found.variables)
    assert again.keys() == expected.keys()
    for name, value in expected.items():
        assert again[name].dtype == value.dtype and again[name].tobytes() == value.tobytes(), name


# -- refusals ----------------------------------------------------------------------------------


def replaced(name, value):
    return lambda tensors: tensors.update({name: value(tensors[name])})


def with_number(name, number):
    def damage(tensors):
        tensors[name].reshape(-1)[3] = number

    return damage


FC, VAR, CONV = "fc.weight", "layer2.0.bn1.running_var", "layer2.0.conv1.weight"
DAMAGES = {
    "missing": (lambda t: t.pop(CONV), [f"1 tensors are missing ({CONV})"]),
    "two missing": (
        lambda t: (t.pop("layer1.0.bn2.running_mean"), t.pop("bn1.weight")),
        ["2 tensors are missing", "bn1.weight", "layer1.0.bn2.running_mean"],
    ),
    "extra": (
        lambda t: t.update({"layer4.0.conv1.weight": t[CONV]}),
        ["1 are left over (layer4.0.conv1.weight)"],
    ),
    "another name": (
        lambda t: t.update({"layer2.0.conv1.kernel": t.pop(CONV)}),
        [f"1 tensors are missing ({CONV})", "1 are left over (layer2.0.conv1.kernel)"],
    ),
    "momentum's encoder": (
        lambda t: t.update({f"encoder_k.{name}": value for name, value in list(t.items())}),
        ["are left over (encoder_k.", ", ...)"],
    ),
    "none": (
        lambda t: [t.update({f"net.{name}": t.pop(name)}) for name in list(t)],
        ["none of the", "(net.", "has a name of resnet8"],
    ),
    "transposed linear": (replaced(FC, lambda v: v.T), [f"{FC} is [64, 10]"]),
    "transposed convolution": (
        replaced(CONV, lambda v: v.transpose(2, 3, 1, 0)),
        [f"1 tensors do not have the shape that resnet8 needs: {CONV} is [3, 3, 16, 32] instead of"
         " [32, 16, 3, 3]"],
    ),
    "flattened": (replaced(CONV, np.ravel), [f"{CONV} is [4608], not of 4 dimensions"]),
    "column": (
        replaced("bn1.bias", lambda v: v[:, None]), ["bn1.bias is [16, 1], not of 1 dim"]
    ),
    "half a classifier": (lambda t: t.pop(FC), [f"only one of fc.bias, {FC} is there"]),
    "the other half": (lambda t: t.pop("fc.bias"), [f"only one of fc.bias, {FC} is there"]),
    "another bias": (replaced("fc.bias", lambda v: v[:9]), ["fc.bias is [9] instead of [10]"]),
    "NaN": (with_number(CONV, np.nan), [f"1 tensors hold NaN or infinity: {CONV};"]),
    "infinity": (with_number(FC, np.inf), [f"1 tensors hold NaN or infinity: {FC};"]),
    "minus infinity": (
        with_number("bn1.running_mean", -np.inf), ["hold NaN or infinity: bn1.running_mean;"]
    ),
    "negative variance": (with_number(VAR, -1e-6), [f"1 tensors are negative variances: {VAR};"]),
    "integers": (
        replaced(CONV, lambda v: v.astype(np.int64)), [f"hold no floating-point numbers: {CONV}."]
    ),
    "booleans": (replaced(VAR, lambda v: v > 0), [f"hold no floating-point numbers: {VAR}."]),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_named_and_nothing_is_taken(tensors, tmp_path, capsys, kind):
    """Through the command: one line, its exit code, and no folder."""
    damage, parts = DAMAGES[kind]
    damage(tensors)
    weights.write_safetensors(tmp_path / "w.safetensors", tensors)
    fails(tmp_path, capsys, "w.safetensors", parts)


@pytest.mark.parametrize("name", [FC, "conv1.weight"])
def test_a_number_in_place_of_a_layer(tensors, tmp_path, capsys, name):
    tensors[name] = np.ones((), np.float32)
    weights.write_safetensors(tmp_path / "w.safetensors", tensors)
    fails(tmp_path, capsys, "w.safetensors", [f"{name} is []"])


def test_numbers_beyond_float32(tensors, tmp_path, capsys):
    tensors[FC] = np.full((10, 64), 1e300)
    weights.write_safetensors(tmp_path / "w.safetensors", tensors)
    fails(tmp_path, capsys, "w.safetensors", [f"hold NaN or infinity: {FC};"])


def fails(folder, capsys, name, parts, model="resnet8", code=67):
    """Importing a file fails in one line on the screen, and leaves nothing."""
    before = sorted(folder.iterdir())
    argv = ["import-weights", str(folder / name), "--model", model, "--out", str(folder / "out")]
    assert cli.main(argv) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    for part in parts:
        assert part in err
    assert sorted(folder.iterdir()) == before


def test_a_refused_state_dict_is_left_as_it_was(small):
    _, _, state = small
    state = {**state, "layer1.0.conv1.weight": np.full_like(state["layer1.0.conv1.weight"], np.inf)}
    before = {name: value.tobytes() for name, value in state.items()}
    with pytest.raises(WeightsError):
        from_state_dict(state, "resnet8", width=4)
    assert {name: value.tobytes() for name, value in state.items()} == before


def test_a_transposed_layer_inside_is_refused():
    model = create_model("deit_t", num_classes=3, **FAMILIES["deit_t"])
    state = to_state_dict(model, draw(model))
    state["blocks.1.mlp.fc1.weight"] = state["blocks.1.mlp.fc1.weight"].T
    with pytest.raises(
        WeightsError, match=r"blocks.1.mlp.fc1.weight is \[12, 48\] instead of \[48"
    ):
        from_state_dict(state, "deit_t", **FAMILIES["deit_t"])


@pytest.mark.parametrize(("given", "found"), [("cifar", "imagenet"), ("imagenet", "cifar")])
def test_another_stem_is_refused(given, found):
    model = create_model("resnet8", num_classes=10, width=4, stem=found)
    side = {"imagenet": 7, "cifar": 3}[found]
    message = f"{side} x {side} convolution, that of stem='{given}' is not: use stem='{found}'"
    with pytest.raises(WeightsError, match=message):
        from_state_dict(to_state_dict(model, draw(model)), "resnet8", width=4, stem=given)


def outline(key):
    """The state dict of an original, of zeros: names and shapes are refused before values."""
    shapes = originals.recorded().cases[key].shapes
    return {name: np.zeros(shape, np.int8) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("key", "name", "suggestion"),
    [
        ("resnet50/imagenet/64", "resnet18", "It is a resnet50."),
        ("mobilenet_v2/torch/32", "resnet50", "has a name of resnet50. It is a mobilenet_v2."),
        ("convnext_t/cifar/32", "convnext_s", "It is a convnext_t."),
        ("swin_t/224", "deit_t", "It is a swin_t."),
    ],
)
def test_the_right_model_is_suggested(key, name, suggestion):
    with pytest.raises(WeightsError) as caught:
        from_state_dict(outline(key), name)
    assert str(caught.value).endswith(suggestion)


@pytest.mark.parametrize(
    ("key", "name", "suggestion"),
    [
        ("resnet34/imagenet/64", "resnet18", "It is a resnet34."),
        ("swin_s/224", "swin_t", "It is a swin_s."),
    ],
)
def test_the_smaller_sister_is_not_suggested(key, name, suggestion):
    """All of its tensors are there, and more."""
    with pytest.raises(WeightsError) as caught:
        from_state_dict(outline(key), name)
    assert str(caught.value).endswith(suggestion)


# -- files -------------------------------------------------------------------------------------


def test_digits_in_a_name_are_checked(small, tmp_path):
    _, _, state = small
    weights.write_pth(tmp_path / "w", state)
    content = (tmp_path / "w").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert sha256(tmp_path / "w") == digest
    names = {"right": f"resnet8-{digest[:8]}.pth", "wrong": "resnet8-0123abcd.pth"}
    names |= {"date": "resnet8-20240131.pth", "long": "resnet8-0123abcd9.pth"}
    for name in names.values():
        (tmp_path / name).write_bytes(content)
    for kind in ("right", "date", "long"):
        assert read_file(tmp_path / names[kind]).keys() == state.keys()
    wrong = tmp_path / names["wrong"]
    for read in (read_file, lambda path: weights.load(path, "resnet8", width=4)):
        with pytest.raises(
            WeightsError, match=f"SHA-256 of {digest[:8]}..., not the 0123abcd..."
        ) as caught:
            read(wrong)
        assert str(wrong) in str(caught.value)


class Touch:
    """Makes a file when it is unpickled by Python's own unpickler."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("wrapping", ["legacy", "zip"])
def test_a_malicious_file_is_refused_and_not_run(tmp_path, capsys, wrapping):
    marker, path = tmp_path / "marker", tmp_path / "w.pth"
    bad = pickle.dumps({"conv1.weight": Touch(marker)}, protocol=2)
    pickle.loads(bad)
    assert marker.exists()  # it would have worked
    marker.unlink()
    if wrapping == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", bad)
    else:
        path.write_bytes(bad)
    fails(tmp_path, capsys, "w.pth", ["system", "was not executed"])
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
@pytest.mark.parametrize("share", [0.999, 0.5, 0.01])
def test_a_truncated_file_is_refused(tensors, tmp_path, capsys, kind, share):
    path = tmp_path / f"w.{kind}"
    {"safetensors": weights.write_safetensors, "pth": weights.write_pth}[kind](path, tensors)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    fails(tmp_path, capsys, path.name, [str(path), "truncated or damaged"])


@pytest.mark.parametrize(("name", "text"), [("none.pth", "is no file"), ("", "is a folder")])
def test_what_is_no_file(tmp_path, capsys, name, text):
    fails(tmp_path, capsys, name, [text])


# -- folders -----------------------------------------------------------------------------------


@pytest.fixture
def folder(small, tmp_path):
    """A folder of weights, and the state dict as a file beside it."""
    _, _, state = small
    pretrained, _ = from_state_dict(state, "resnet8", width=4)
    weights.save(tmp_path / "a/folder", pretrained, source={"file": "w.pth"})
    weights.write_pth(tmp_path / "w.pth", state)
    return tmp_path / "a/folder"


def test_a_folder_gives_back_the_same_bits(small, folder):
    _, variables, _ = small
    ways = [
        weights.load(folder),
        weights.load(str(folder), "resnet8"),
        weights.load(folder, "resnet8", stem="cifar", width=4),
        weights.load(folder.parents[1] / "w.pth", "resnet8", width=4),
    ]
    for found in ways:
        assert_same(found.variables, variables)
        assert (found.name, found.num_classes, found.image_size) == ("resnet8", 10, 224)
        assert found.options == SMALL
    card = json.loads((folder / "model.json").read_text())
    assert card["source"] == {"file": "w.pth"}
    assert (
        card["sha256"] == hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    )
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "weights.safetensors"]


def test_a_folder_without_classifier_and_with_positions(tmp_path):
    model = create_model("deit_t", num_classes=0, **FAMILIES["deit_t"])
    state = to_state_dict(model, draw(model, 64))
    pretrained, _ = from_state_dict(state, "deit_t", **FAMILIES["deit_t"])
    weights.save(tmp_path, pretrained)
    found = weights.load(tmp_path)
    assert_same(found.variables, pretrained.variables)
    assert (found.num_classes, found.image_size) == (0, 64) and found.model() == model


def refused(message, *args, **options):
    with pytest.raises(WeightsError, match=message) as caught:
        weights.load(*args, **options)
    assert caught.value.exit_code == 67 and "\n" not in str(caught.value)


def test_a_folder_of_something_else_is_refused(folder):
    refused("holds the weights of resnet8, not of resnet18", folder, "resnet18")
    refused("made with stem='cifar', not 'imagenet'", folder, stem="imagenet")
    refused("made with width=4, not 8", folder, "resnet8", width=8)
    refused("w.pth is a file: say the name of its model", folder.parents[1] / "w.pth")
    refused("has no model.json", folder.parent)
    refused("is no file", folder.parent / "none", "resnet8")


def test_an_option_that_was_not_set_is_compared_too(tmp_path):
    """The weights are of the default width, which another is not."""
    model = create_model("resnet8", num_classes=10, stem="cifar")
    pretrained, _ = from_state_dict(to_state_dict(model, draw(model)), "resnet8")
    weights.save(tmp_path, pretrained)
    assert weights.load(tmp_path, "resnet8", width=16).model() == model
    refused("width", tmp_path, "resnet8", width=8)


def test_other_weights_in_a_folder_are_refused(folder):
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused("not the file that model.json was written for", folder)
    path.write_bytes(content[:-1])
    refused("truncated or damaged", folder)
    path.unlink()
    refused("is no file", folder)


def card_with(**changes):
    def change(text):
        card = json.loads(text) | changes
        return json.dumps({name: value for name, value in card.items() if value != "absent"})

    return change


CARDS = {
    "empty": lambda text: "",
    "half": lambda text: text[: len(text) // 2],
    "list": lambda text: "[1, 2]",
    "another format": card_with(format=2),
    "without model": card_with(model="absent"),
    "without sum": card_with(sha256="absent"),
    "another width": card_with(options={"stem": "cifar", "width": 8}),
    "another number of classes": card_with(num_classes=11),
}


@pytest.mark.parametrize("kind", CARDS)
def test_a_damaged_card_is_refused(folder, kind):
    path = folder / "model.json"
    path.write_text(CARDS[kind](path.read_text()))
    refused("cannot be used|is not resnet8's in this version", folder)
    path.unlink()
    refused("has no model.json", folder)


@pytest.mark.parametrize("changes", [{"options": None}, {"num_classes": "ten"}, {"model": 3}])
def test_a_card_of_other_types_is_refused(folder, changes):
    path = folder / "model.json"
    path.write_text(card_with(**changes)(path.read_text()))
    refused("cannot be used", folder)


def test_a_folder_is_not_overwritten(folder):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(WeightsError, match="is not an empty folder"):
        weights.save(folder, weights.load(folder))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(WeightsError, match=r"w.pth exists and is not an empty"):
        weights.save(folder.parents[1] / "w.pth", weights.load(folder))


# -- positions ---------------------------------------------------------------------------------


def keys_matrix(size, new):
    """Weights [new, size] of bicubic resizing, Keys' kernel with a = -0.5, wider when shrinking."""
    stretch = max(size / new, 1.0)
    centres = (np.arange(new) + 0.5) * size / new - 0.5
    x = np.abs(centres[:, None] - np.arange(size)) / stretch
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    kernel = np.where(x < 1, near, np.where(x < 2, far, 0))
    return kernel / kernel.sum(1, keepdims=True)


def embedded(side):
    """Variables of a narrow DeiT for images of 16 times a side, and its shapes."""
    model = create_model("deit_t", num_classes=3, width=12, heads=3, blocks=1)
    return draw(model, 16 * side), layout.variable_shapes(model, (16 * side, 16 * side))


RESIZED = [(14, 2), (2, 4), (4, 6), (14, 7)]


@pytest.mark.parametrize(("old", "new"), RESIZED)
def test_positions_are_resized_bicubically(old, new):
    variables, shapes = embedded(old)[0], embedded(new)[1]
    before = variables["params"]["positions"]
    found = fit(variables, shapes)
    positions = found["params"].pop("positions")
    assert positions.shape == (1, 1 + new * new, 12)
    np.testing.assert_array_equal(positions[:, 0], before[:, 0])
    matrix = keys_matrix(old, new)
    grid = before[0, 1:].reshape(old, old, 12).astype(np.float64)
    expected = np.einsum("ah,bw,hwc->abc", matrix, matrix, grid).reshape(1, new * new, 12)
    # Sums of at most 14 x 14 float32 numbers of size 1, with weights that sum to 1.
    np.testing.assert_allclose(positions[:, 1:], expected, rtol=0, atol=2e-6)
    others = {name: value for name, value in variables["params"].items() if name != "positions"}
    assert_same(found["params"], others)


@pytest.mark.parametrize(("old", "new"), RESIZED)
def test_positions_are_resized_as_by_timm(old, new):
    """PyTorch too computes in float32."""
    layers = pytest.importorskip("timm.layers")
    torch = pytest.importorskip("torch")
    variables, shapes = embedded(old)[0], embedded(new)[1]
    expected = layers.resample_abs_pos_embed(
        torch.from_numpy(variables["params"]["positions"]), [new, new], num_prefix_tokens=1
    )
    found = fit(variables, shapes)["params"]["positions"]
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=4e-6)


def test_positions_of_the_same_size_are_untouched():
    variables, shapes = embedded(2)
    found = flax.traverse_util.flatten_dict(fit(variables, shapes))
    expected = flax.traverse_util.flatten_dict(variables)
    assert found.keys() == expected.keys()
    assert all(found[path] is expected[path] for path in expected)


def test_positions_fit_square_images_only():
    variables, shapes = embedded(2)
    shapes = {**shapes, ("params", "positions"): (1, 7, 12)}
    with pytest.raises(WeightsError, match="for square images only, not to 6 patches"):
        fit(variables, shapes)


def test_another_shape_does_not_fit():
    variables, shapes = embedded(2)
    path = ("params", "block1", "fc1", "kernel")
    with pytest.raises(
        WeightsError, match=r"block1/fc1/kernel is of shape \[12, 48\] in .* \[12, 9"
    ):
        fit(variables, {**shapes, path: (12, 96)})
    with pytest.raises(WeightsError, match="params/block2/norm1/scale is absent in the weights"):
        fit(variables, {**shapes, ("params", "block2", "norm1", "scale"): (12,)})


def test_images_of_other_channels_do_not_fit():
    variables, shapes = embedded(2)
    with pytest.raises(WeightsError, match="images of 3 channels, and these have 1:"):
        fit(variables, {**shapes, ("params", "patch", "kernel"): (16, 16, 1, 12)})


# -- the command -------------------------------------------------------------------------------


def imported(tmp_path, capsys, tensors):
    """The lines that an import prints."""
    weights.write_pth(tmp_path / "w.pth", tensors)
    out = tmp_path / "out"
    argv = ["import-weights", str(tmp_path / "w.pth"), "--model", "resnet8", "--out", str(out)]
    assert cli.main(argv) == 0
    text, err = capsys.readouterr()
    assert err == ""
    return text.splitlines(), json.loads((out / "model.json").read_text())


def test_import_says_what_it_found(tensors, tmp_path, capsys):
    lines, card = imported(tmp_path, capsys, tensors)
    assert lines[0] == "resnet8, stem cifar: 78,042 parameters, 10 classes, in torchvision names"
    # Three blocks of two convolutions with a norm of four tensors each, and two shortcuts.
    assert lines[1].startswith("matched    47 tensors: ")
    groups = {"conv1 (1)", "bn1 (4)", "fc (2)", "layer1 (10)", "layer2 (15)", "layer3 (15)"}
    assert set(lines[1].partition(": ")[2].split(", ")) == groups
    assert lines[2:4] == ["missing    none", "left over  none"]
    assert lines[4:] == [
        f"written to {tmp_path / 'out'}: train with --config.init_from={tmp_path / 'out'}"
    ]
    assert card["model"] == "resnet8" and card["options"] == {"stem": "cifar"}
    assert card["naming"] == "torchvision" and card["num_classes"] == 10
    assert card["source"] == {"file": "w.pth", "sha256": sha256(tmp_path / "w.pth")}
    found = weights.load(tmp_path / "out")
    assert_same(found.variables, from_state_dict(tensors, "resnet8")[0].variables)


def test_import_says_what_is_missing_left_over_and_converted(tensors, tmp_path, capsys):
    bias = tensors.pop("fc.bias")
    tensors.pop("fc.weight")
    tensors["fc.temperature"] = bias
    for name in ("conv1.weight", "bn1.bias"):
        tensors[name] = tensors[name].astype(np.float16)
    lines, card = imported(tmp_path, capsys, tensors)
    assert lines[0] == "resnet8, stem cifar: 77,392 parameters, no classifier, in torchvision names"
    assert lines[1].startswith("matched    45 tensors: ")
    assert lines[2] in ("missing    fc.weight, fc.bias", "missing    fc.bias, fc.weight")
    assert lines[3:5] == [
        "left over  fc.temperature", "converted  2 tensors from float16 to float32"
    ]  # fmt: skip
    assert card["num_classes"] == 0


def test_import_into_a_folder_of_weights_is_refused(tensors, folder, capsys):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    weights.write_pth(folder.parent / "w.pth", tensors)
    argv = ["import-weights", str(folder.parent / "w.pth"), "--model=resnet8", f"--out={folder}"]
    assert cli.main(argv) == 67
    out, err = capsys.readouterr()
    assert out == "" and "is not an empty folder" in err and err.count("\n") == 1
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["import-weights", "FILE", "--model=resnet88", "--out=OUT"], ["'resnet88'", "'resnet8'"]),
        (["import-weights", "FILE", "--model=resnet8"], ["--out"]),
        (["import-weights", "FILE", "--out=OUT"], ["--model"]),
        (["import-weights", "--model=resnet8", "--out=OUT"], ["FILE"]),
        (["import-weights", "FILE", "--model=resnet8", "--out=OUT", "--width=4"], ["--width=4"]),
        (
            ["import-weights", "FILE", "--model=resnet8", "--out=OUT", "--convention=jax"],
            ["--convention", "'jax'", "torch"],
        ),
        (
            ["import-weights", "FILE", "--model=resnet8", "--out=OUT", "--convention=tf"],
            ["'resnet8'", "no option 'convention'"],
        ),
        (["import-weight", "FILE"], ["'import-weight'", "Did you mean 'import-weights'?"]),
    ],
)
def test_bad_arguments(tensors, tmp_path, capsys, argv, parts):
    weights.write_pth(tmp_path / "FILE", tensors)
    places = {name: str(tmp_path / name) for name in ("FILE", "OUT")}
    assert cli.main([re.sub("FILE|OUT", lambda m: places[m[0]], word) for word in argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    for part in parts:
        assert part in err
    assert not (tmp_path / "OUT").exists()


def test_an_unknown_model_or_option_is_the_callers_mistake(small):
    _, _, state = small
    with pytest.raises(ConfigError, match="Did you mean 'resnet8'"):
        from_state_dict(state, "resnet88")
    with pytest.raises(ConfigError, match="Did you mean 'width'"):
        from_state_dict(state, "resnet8", widht=4)
