"""Transforms: equal to torchvision and timm under their draws, and the draws' distributions.

What is recorded from them is met to the last bit, with Pillow 10.3 to 13.0.
"""

import concurrent.futures
import io
import itertools
import math
import pickle
import subprocess
import sys
from pathlib import Path
from unittest import mock

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_array_equal as assert_equal
from PIL import Image

from automix_jax.data import transforms
from automix_jax.data.images import decode_image
from automix_jax.data.transforms import TestTransform, TrainTransform, color, crop
from automix_jax.data.transforms import rand_augment as ra
from automix_jax.errors import ConfigError

RECORDED = np.load(Path(__file__).parent / "data" / "transforms.npz")
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
FILL = (124, 116, 104)
IMAGENET = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}

few = hypothesis.settings(max_examples=60, deadline=None, derandomize=True)


def random_image(seed, height, width, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


# Crops.


def test_random_resized_boxes_equal_torchvision_under_its_draws():
    central = 0
    for (width, height, *ranges), (areas, aspects), box in zip(
        RECORDED["crop_shapes"], RECORDED["crop_draws"], RECORDED["crop_boxes"], strict=True
    ):
        width, height = int(width), int(height)
        size = crop.first_fitting(width, height, areas.tolist(), aspects.tolist())
        if size is None:
            central += 1
            assert crop.central_box(width, height, tuple(ranges[2:])) == tuple(box)
        else:
            assert size == (box[2] - box[0], box[3] - box[1])
    assert 60 < central < 180  # Both ways are taken.


@pytest.mark.parametrize("name", FILTERS)
def test_resized_crop_equals_torchvision(name):
    photo = Image.fromarray(RECORDED["photo"])
    for box, expected in zip(
        RECORDED["resized_crop_boxes"].tolist(), RECORDED[f"resized_crop_{name}"], strict=True
    ):
        assert_equal(crop.resized_crop(photo, tuple(box), 20, name), expected)


@few
@hypothesis.given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    scale=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    ratio=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(sorted),
    seed=st.integers(0, 99),
)
def test_random_resized_boxes_lie_in_the_image(width, height, scale, ratio, seed):
    def draw():
        return crop.random_resized_box(np.random.default_rng(seed), width, height, scale, ratio)

    left, top, right, bottom = draw()
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert draw() == (left, top, right, bottom)


def test_random_resized_boxes_are_distributed_as_specified():
    rng = np.random.default_rng(0)
    drawn = np.array([crop.random_resized_box(rng, 4000, 4000, **IMAGENET) for _ in range(4000)])
    assert_crop_distribution(drawn[:, 1], drawn[:, 0], *(drawn[:, 2:] - drawn[:, :2]).T[::-1], 4000)


def assert_crop_distribution(top, left, height, width, side):
    """Against boxes whose ten attempts are written out with NumPy."""
    rng = np.random.default_rng(1)
    areas = rng.uniform(0.08, 1, (20000, 10)) * side**2
    aspects = np.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3), (20000, 10)))
    sides = np.sqrt(np.stack([areas * aspects, areas / aspects]))
    fits = (sides <= side).all(0)
    first = fits.argmax(1)
    areas, aspects = (array[np.arange(20000), first][fits.any(1)] for array in (areas, aspects))
    assert scipy.stats.ks_2samp(height * width, areas).pvalue > 1e-3
    assert scipy.stats.ks_2samp(width / height, aspects).pvalue > 1e-3
    smaller = (height < 0.9 * side) & (width < 0.9 * side)
    for start, length in ((top, height), (left, width)):
        place = (start + 0.5) / (side - length + 1)
        assert scipy.stats.kstest(place[smaller], "uniform").pvalue > 1e-3


def test_sizes_after_a_resize_equal_torchvision():
    for width, height, shorter, *expected in RECORDED["resized_sizes"].tolist():
        assert crop.resized_size(width, height, shorter) == tuple(expected)


@pytest.mark.parametrize("name", FILTERS)
def test_test_transform_equals_torchvision(name):
    for (width, height), (size, resize) in itertools.product(
        RECORDED["test_shapes"].tolist(), RECORDED["test_settings"].tolist()
    ):
        image = RECORDED[f"test_image_{width}x{height}"]
        expected = RECORDED[f"test_{width}x{height}_{size}_{resize}_{name}"]
        assert_equal(TestTransform(size, resize, name)(image, "photo"), expected)


@few
@hypothesis.given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.integers(1, 24),
    more=st.integers(0, 12),
    name=st.sampled_from(list(FILTERS)),
)
def test_a_part_of_a_resized_image_is_that_of_the_whole(width, height, size, more, name):
    image = Image.fromarray(random_image(width, height, width))
    resized = crop.resized_size(width, height, size + more)
    box = crop.center_box(*resized, size)
    whole = crop.crop_of_resized(image, resized, box, name)
    with mock.patch.object(crop, "_WHOLE", 0):
        part = crop.crop_of_resized(image, resized, box, name)
    off = np.abs(np.asarray(part).astype(int) - np.asarray(whole))
    # Two roundings, one after each pass; ties are common between sizes as small as these.
    assert off.max() <= 2
    assert (off > 1).mean() <= 0.01
    assert (off > 0).mean() <= 0.1


def test_a_long_image_is_not_resized_as_a_whole():
    # All of it would be 224 x 6720000 pixels. It is one line, so that its box is one as well.
    line = random_image(0, 1, 30000)
    centre = np.arange(14940, 15060)
    result = TestTransform(224)(line, "line").astype(int)
    upright = TestTransform(224)(line.transpose(1, 0, 2), "line")
    assert_equal(upright, result.transpose(1, 0, 2))
    assert (result == result[:1]).all()
    expected = Image.fromarray(line[:, centre]).resize((120 * 224, 1), FILTERS["bicubic"])
    assert np.abs(result[0] - np.asarray(expected)[0, 59 * 224 + 112 :][:224]).max() <= 1


@pytest.mark.parametrize("mode", ["zero", "reflect"])
def test_padded_crop_equals_torchvision(mode):
    expected = RECORDED["padded_constant" if mode == "zero" else "padded_reflect"]
    for offset, result in zip(RECORDED["padded_offsets"].tolist(), expected, strict=True):
        image = Image.fromarray(RECORDED["small"])
        assert_equal(crop.padded_crop(image, tuple(offset), 4, mode), result)
        gray = crop.padded_crop(image.getchannel(0), tuple(offset), 4, mode)
        assert_equal(gray, result[..., 0])


# Colours.


def test_color_jitter_equals_torchvision_under_its_draws():
    photo = Image.fromarray(RECORDED["small"])
    names = ("brightness", "contrast", "saturation")
    for order, factors, expected in zip(
        RECORDED["jitter_orders"], RECORDED["jitter_factors"], RECORDED["jitter"], strict=True
    ):
        drawn = tuple((names[index], float(factors[index])) for index in order)
        assert_equal(color.color_jitter(photo, drawn), expected)


def test_color_jitter_draws_orders_and_factors_uniformly():
    rng = np.random.default_rng(0)
    drawn = [color.random_color_jitter(rng, 0.4) for _ in range(3000)]
    orders = {
        order: 0 for order in itertools.permutations(("brightness", "contrast", "saturation"))
    }
    for factors in drawn:
        orders[tuple(name for name, _ in factors)] += 1
    assert scipy.stats.chisquare(list(orders.values())).pvalue > 1e-3
    for name in ("brightness", "contrast", "saturation"):
        values = [dict(factors)[name] for factors in drawn]
        assert scipy.stats.kstest(values, "uniform", (0.6, 0.8)).pvalue > 1e-3
    assert (
        min(
            f for _, f in itertools.chain(*(color.random_color_jitter(rng, 2.0) for _ in range(99)))
        )
        >= 0
    )


OPS = {"standard": ra.STANDARD, "increasing": ra.INCREASING}


@pytest.mark.parametrize("family", OPS)
def test_rand_augment_operations_equal_timm(family):
    rgb, gray = Image.fromarray(RECORDED["small"]), Image.fromarray(RECORDED["small_gray"])
    seen = set()
    for (index, magnitude, sign), argument, expected, expected_gray in zip(
        RECORDED[f"{family}_cases"],
        RECORDED[f"{family}_arguments"],
        RECORDED[f"{family}_rgb"],
        RECORDED[f"{family}_gray"],
        strict=True,
    ):
        name, to_argument = OPS[family][int(index)]
        seen.add(name)
        assert to_argument(float(magnitude), int(sign)) == argument, name
        step = [(name, to_argument(float(magnitude), int(sign)))]
        assert_equal(ra.apply_steps(rgb, step, FILL, FILTERS["bicubic"]), expected)
        assert_equal(ra.apply_steps(gray, step, (118,), FILTERS["bilinear"]), expected_gray)
    assert len(seen) == 15


def test_policies_are_read_as_timm_reads_them():
    for line in RECORDED["policies"].tolist():
        text, family, count, probability, magnitude, std = line.split()
        assert ra.parse_policy(text) == ra.Policy(
            OPS[family], int(count), float(probability), float(magnitude), float(std)
        )


def test_fixmatch_has_the_ranges_of_its_recipe():
    policy = ra.parse_policy("fixmatch-m7-mstd0.5")
    assert (policy.count, policy.probability, policy.magnitude, policy.std) == (2, 0.5, 7, 0.5)
    ranges = {  # At magnitude 0 and 10, with the sign +, and at 7 with the sign -.
        "auto_contrast": (0, 0, 0),
        "brightness": (1.05, 1.95, 0.32),
        "color": (1.05, 1.95, 0.32),
        "contrast": (1.05, 1.95, 0.32),
        "equalize": (0, 0, 0),
        "identity": (0, 0, 0),
        "posterize": (4, 8, 6),
        "rotate": (0, 30, -21),
        "sharpness": (1.05, 1.95, 0.32),
        "shear_x": (0, 0.3, -0.21),
        "shear_y": (0, 0.3, -0.21),
        "solarize": (256, 0, 76.8),
        "translate_x": (0, 0.3, -0.21),
        "translate_y": (0, 0.3, -0.21),
    }
    drawn = {name: (f(0.0, 1), f(10.0, 1), f(7.0, -1)) for name, f in policy.ops}
    assert list(drawn) == list(ranges)
    for name, values in ranges.items():
        assert drawn[name] == pytest.approx(values, abs=1e-12), name
    photo = Image.fromarray(RECORDED["small"])
    for name in ranges:
        changed = np.asarray(
            ra.apply_steps(photo, [(name, drawn[name][2])], FILL, FILTERS["bicubic"])
        )
        assert (name == "identity") == (changed == RECORDED["small"]).all(), name
    # A threshold between two levels leaves those below it.
    solarized = ra.apply_steps(photo, [("solarize", 76.8)], FILL, FILTERS["bicubic"])
    levels = RECORDED["small"]
    assert_equal(solarized, np.where(levels < 76.8, levels, 255 - levels))


@pytest.mark.parametrize("text", ["rand-m9-mstd0.5-inc1", "rand-m6-n3-p0.8-mstd101", "fixmatch-m7"])
def test_rand_augment_draws_as_specified(text):
    policy, rng, images = ra.parse_policy(text), np.random.default_rng(0), 4000
    names = [name for name, _ in policy.ops]
    steps = [ra.random_steps(rng, policy) for _ in range(images)]
    drawn = [step for image in steps for step in image]
    counts = np.bincount([len(image) for image in steps], minlength=policy.count + 1)
    expected = scipy.stats.binom.pmf(np.arange(policy.count + 1), policy.count, policy.probability)
    assert scipy.stats.chisquare(counts, images * expected).pvalue > 1e-3
    chosen = np.bincount([names.index(name) for name, _ in drawn])
    assert scipy.stats.chisquare(chosen).pvalue > 1e-3
    angles = np.array([argument for name, argument in drawn if name == "rotate"])
    assert scipy.stats.binomtest(int((angles > 0).sum()), len(angles)).pvalue > 1e-3
    magnitudes = np.abs(angles) / 3
    if math.isinf(policy.std):
        assert scipy.stats.kstest(magnitudes, "uniform", (0, policy.magnitude)).pvalue > 1e-3
    elif policy.std:
        normal = np.random.default_rng(1).normal(policy.magnitude, policy.std, 20000)
        assert scipy.stats.ks_2samp(magnitudes, normal.clip(0, 10)).pvalue > 1e-3
    else:
        np.testing.assert_allclose(magnitudes, policy.magnitude)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("rand-m9-x3", r'"x3" is unknown: the parts are m \(the magnitude'),
        ("rand-m", r'"m" is unknown'),
        ("rand-", r'"" is unknown'),
        ("rand-tweights", r'"tweights" is unknown'),
        ("rand-mmax20", r'"mmax20" is unknown'),
        ("rand-m9-m8", r'"m" is given twice'),
        ("rand-m11", r'"m11" is out of range: m is the magnitude, a whole number in 0..10'),
        ("rand-m2.5", r'"m2.5" is out of range'),
        ("rand-n0", r'"n0" is out of range'),
        ("rand-p1.5", r'"p1.5" is out of range'),
        ("rand-inc2", r'"inc2" is out of range'),
        ("augmix-m3", r'begins with "augmix": begin with "rand" or "fixmatch"'),
        ("fixmatch-m7-inc1", r'fixmatch has no "inc"'),
        ("fixmatch-m7-inc0", r'fixmatch has no "inc"'),
    ],
)
def test_a_policy_that_cannot_be_read_is_refused(text, fault):
    with pytest.raises(ConfigError, match=rf'config.data.rand_augment is "{text}".*{fault}'):
        TrainTransform(32, rand_augment=text)


# All of it.


def test_the_whole_of_a_training_image_equals_timm_under_its_draws(monkeypatch):
    monkeypatch.setattr(transforms, "random_resized_box", lambda *_: (7, 3, 43, 33))
    ops = dict(ra.INCREASING)
    steps = tuple((name, ops[name](9.0, -1)) for name in ("rotate", "color"))
    monkeypatch.setattr(transforms, "random_steps", lambda *_: steps)
    transform = TrainTransform(24, rand_augment="rand-m9-mstd0.5-inc1")
    flipped = next(s for s in range(9) if np.random.default_rng(s).random() < 0.5)
    result = transform(RECORDED["photo"], np.random.default_rng(flipped), "photo")
    assert_equal(result, RECORDED["pipeline"])


TRANSFORMS = {
    "imagenet": TrainTransform(24),
    "rand_augment": TrainTransform(
        24, rand_augment="rand-m9-mstd0.5-inc1", interpolation="bilinear"
    ),
    "fixmatch": TrainTransform(24, scale=(0.8, 1.0), rand_augment="fixmatch-m7-mstd0.5"),
    "jitter": TrainTransform(24, color_jitter=0.4),
    "cub": TrainTransform(24, resize=30, scale=(0.5, 1.0), interpolation="bilinear"),
    "cifar": TrainTransform(24, crop="padded", padding_mode="reflect"),
    "plain": TrainTransform(24, crop="none", flip=False),
    "gray": TrainTransform(24, channels=1, crop="padded", rand_augment="rand-m9-mstd0.5-inc1"),
    "gray_jitter": TrainTransform(24, channels=1, color_jitter=0.4),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_generator_decides_an_image_in_any_thread(transform):
    image = encoded(Image.fromarray(RECORDED["photo"]))
    assert pickle.loads(pickle.dumps(transform)) == transform

    def run(seed):
        return transform(image, np.random.default_rng([5, seed]), "photo")

    alone = [run(seed) for seed in range(16)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, range(16)))
    assert_equal(alone, together)
    assert alone[0].shape == (24, 24, transform.channels)
    assert alone[0].dtype == np.uint8
    changing = any((result != alone[0]).any() for result in alone[1:])
    assert changing == (transform != TRANSFORMS["plain"])


def test_half_of_the_images_are_flipped():
    transform = TrainTransform(8, crop="none")
    image = random_image(0, 8, 8)
    rng = np.random.default_rng(0)
    results = [transform(image, rng, "image") for _ in range(1000)]
    flipped = sum((result == image[:, ::-1]).all() for result in results)
    assert flipped + sum((result == image).all() for result in results) == 1000
    assert scipy.stats.binomtest(int(flipped), 1000).pvalue > 1e-3


def test_padded_crop_is_at_every_offset_of_the_square():
    transform = TrainTransform(8, crop="padded", padding=2, flip=False)
    image, rng = random_image(0, 30, 20), np.random.default_rng(0)
    square = Image.fromarray(decode_image(image, "image", 8))
    expected = {
        np.asarray(crop.padded_crop(square, offset, 2, "zero")).tobytes(): 0
        for offset in itertools.product(range(5), repeat=2)
    }
    for _ in range(2500):
        expected[transform(image, rng, "image").tobytes()] += 1
    assert len(expected) == 25
    assert scipy.stats.chisquare(list(expected.values())).pvalue > 1e-3


def test_resize_comes_before_the_random_resized_crop():
    transform = TrainTransform(24, resize=30, interpolation="bilinear", flip=False)
    photo = Image.fromarray(RECORDED["photo"])
    resized = photo.resize((39, 46), FILTERS["bilinear"]).resize((39, 30), FILTERS["bilinear"])
    for seed in range(8):
        rng = np.random.default_rng(seed)
        box = crop.random_resized_box(np.random.default_rng(seed), 39, 30, **IMAGENET)
        expected = crop.resized_crop(resized, box, 24, "bilinear")
        assert_equal(transform(RECORDED["photo"], rng, "photo"), expected)


def test_gray_images_are_filled_with_the_luma():
    transform = TrainTransform(
        20, channels=1, crop="none", rand_augment="rand-m10-p1-n1", flip=False
    )
    black, results = np.zeros((20, 20, 1), np.uint8), []
    for seed in range(40):
        results.append(transform(black, np.random.default_rng(seed), "black"))
    filled = {int(result.max()) for result in results if len(np.unique(result)) == 2}
    assert 117 in filled  # 0.299 * 124 + 0.587 * 116 + 0.114 * 104
    own = TrainTransform(20, channels=1, rand_augment="rand-m10-p1-n1", fill=(9,))
    assert own(black, np.random.default_rng(0), "black").shape == (20, 20, 1)


def test_transforms_need_no_jax():
    # The packages above them do, and are left out.
    code = (
        "import sys, types\n"
        "for name in ('automix_jax', 'automix_jax.data'):\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        "    sys.modules[name].__path__ = [sys.argv[1] + '/' + name.replace('.', '/')]\n"
        "from automix_jax.data.transforms import TrainTransform\n"
        "TrainTransform(8, rand_augment='rand')\n"
        "assert 'jax' not in sys.modules"
    )
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", code, str(root)], check=True)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"size": 0}, r"size of the images is 0: use 1"),
        ({"channels": 2}, r"images of 2 channels: use 3 for RGB or 1"),
        ({"crop": "center"}, r'config.data.crop is "center": use one of random_resized, padded'),
        ({"interpolation": "lanczos"}, r'config.data.interpolation is "lanczos": use "bicubic"'),
        ({"scale": (0.5, 0.1)}, r"config.data.scale is \(0.5, 0.1\): give the least"),
        ({"scale": (0.0, 1.0)}, r"config.data.scale is"),
        ({"ratio": (0.0, 1.0)}, r"config.data.ratio is \(0.0, 1.0\): give the least"),
        ({"resize": 40, "crop": "padded"}, r"config.data.resize is 40.*set it to 0"),
        ({"resize": -1}, r"config.data.resize is -1"),
        ({"crop": "padded", "padding": -1}, r"config.data.padding is -1: use 0 to 32"),
        (
            {"crop": "padded", "padding": 32, "padding_mode": "reflect"},
            r"config.data.padding is 32: use 0 to 31 for images of 32 x 32",
        ),
        ({"crop": "padded", "padding_mode": "edge"}, r'padding_mode is "edge": use "zero"'),
        ({"color_jitter": -0.1}, r"config.data.color_jitter is -0.1: use 0 or more"),
        (
            {"color_jitter": 0.4, "rand_augment": "rand-m9"},
            r'config.data.color_jitter is 0.4 and config.data.rand_augment is "rand-m9".*to 0',
        ),
        ({"fill": (1, 2)}, r"fill colour is \(1, 2\): give 3 numbers"),
        ({"fill": (1, 2, 256)}, r"fill colour"),
    ],
)
def test_transforms_that_cannot_work_are_refused(fields, fault):
    with pytest.raises(ConfigError, match=fault):
        TrainTransform(**({"size": 32} | fields))


def test_test_transforms_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match=r"config.data.test_resize is 31, less than the 32.*to 0"):
        TestTransform(32, 31)
    with pytest.raises(ConfigError, match=r'config.data.interpolation is "box"'):
        TestTransform(32, interpolation="box")
