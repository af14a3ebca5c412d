"""The 19 corruptions against the generators of the published sets, and what they promise.

`tests/live_corruptions.py` recorded what the generators make of the images here.
"""

import importlib
import itertools
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from automix_jax.errors import ConfigError
from automix_jax.evaluate.corruptions import (
    COMMON,
    DETERMINISTIC,
    EXTRA,
    FAMILIES,
    NAMES,
    SEVERITIES,
    SIZES,
    blur,
    corrupt,
    tables,
    weather,
)
from automix_jax.evaluate.corruptions.corrupt import OPERATORS

# In the package's namespace its function has its name.
MODULE = importlib.import_module("automix_jax.evaluate.corruptions.corrupt")
ARRAYS = Path(__file__).parent / "data" / "corruptions.npz"
COUNT = 24  # images of 32 x 32
SAMPLED = 2  # images of which some pixels are recorded
REPEATS = 20  # draws of each image, over which the change is averaged
RANDOM = [name for name in NAMES if name not in DETERMINISTIC]


def enlarged(images, side):
    """The images themselves, or of the larger sizes two or one that they are put together to."""
    if side == 32:
        return images
    tiles = side // 32
    count = 2 if side == 64 else 1
    chosen = images[np.arange(count * tiles * tiles) % len(images)]
    grid = chosen.reshape(count, tiles, tiles, 32, 32, 3).swapaxes(2, 3)
    return grid.reshape(count, side, side, 3)


def sampled(images):
    """Pixels of the first images that lie on a grid of 16 x 16."""
    step = images.shape[1] // 16
    return images[:SAMPLED, step // 2 :: step, step // 2 :: step]


def replayed(images, name, severity, seeds):
    """What our operator makes of the draws that the original makes with these seeds."""
    side = images.shape[1]
    parameters = tables.parameters(name, severity, side)
    draws = [
        DRAWS[name](seed, image, parameters) for seed, image in zip(seeds, images, strict=True)
    ]
    stacked = [np.stack(draw) for draw in zip(*draws, strict=True)]
    return OPERATORS[name].apply(images, parameters, *stacked)


def draw_normal(seed, image, parameters):
    return (np.random.RandomState(seed).normal(size=image.shape, scale=parameters[0]),)


def draw_counts(seed, image, parameters):
    return (np.random.RandomState(seed).poisson(image / 255.0 * parameters[0]),)


def draw_impulses(seed, image, parameters):
    rng = np.random.default_rng(seed)
    return rng.random(image.shape), rng.random(image.shape)


def draw_steps(seed, image, parameters):
    reach, rounds = map(int, parameters[1:])
    scanned = len(image) - 2 * reach
    return (np.random.RandomState(seed).randint(-reach, reach, (rounds, scanned, scanned, 2)),)


def draw_angle(seed, image, parameters):
    return (np.float64(np.random.RandomState(seed).uniform(-45, 45)),)


def draw_snow(seed, image, parameters):
    rng = np.random.RandomState(seed)
    layer = rng.normal(size=image.shape[:2], loc=parameters[0], scale=parameters[1])
    return layer, np.float64(rng.uniform(-135, -45))


def draw_crop(seed, image, parameters):
    rng = np.random.RandomState(seed)
    index, side = rng.randint(5), len(image)
    height, width = weather._texture(index, parameters[2]).shape[:2]
    return (np.array([index, rng.randint(0, height - side), rng.randint(0, width - side)]),)


def draw_heights(seed, image, parameters):
    side = {32: 32, 64: 64, 224: 256}[len(image)]
    return (np.random.RandomState(seed).random_sample(side * side - 1),)


def draw_drops(seed, image, parameters):
    mean, deviation = parameters[:2]
    return (np.random.RandomState(seed).normal(size=image.shape[:2], loc=mean, scale=deviation),)


def draw_elastic(seed, image, parameters):
    rng, reach = np.random.RandomState(seed), parameters[2]
    moves = rng.uniform(-reach, reach, size=(3, 2))
    return moves, np.stack([rng.uniform(-1, 1, size=image.shape[:2]) for _ in range(2)])


DRAWS = {
    "gaussian_noise": draw_normal,
    "shot_noise": draw_counts,
    "impulse_noise": draw_impulses,
    "glass_blur": draw_steps,
    "motion_blur": draw_angle,
    "snow": draw_snow,
    "frost": draw_crop,
    "fog": draw_heights,
    "elastic_transform": draw_elastic,
    "speckle_noise": draw_normal,
    "spatter": draw_drops,
    **dict.fromkeys(DETERMINISTIC, lambda seed, image, parameters: ()),
}


@pytest.fixture(scope="module")
def recorded():
    with np.load(ARRAYS) as arrays:
        return dict(arrays)


def digests(images):
    return [zlib.crc32(image.tobytes()) for image in images]


def pair(recorded):
    """Two images that nothing special is about."""
    return recorded["images"][:2]


def test_names():
    assert len(NAMES) == 19 and len(COMMON) == 15 and len(EXTRA) == 4
    assert tuple(itertools.chain(*FAMILIES.values())) == NAMES == tuple(OPERATORS)
    assert len(DETERMINISTIC) == 8 and set(DETERMINISTIC) <= set(NAMES)


def test_what_follows_the_side():
    assert [tables.nearest_size(side) for side in (8, 48, 49, 144, 145, 500)] == [
        *(32, 32, 64, 64, 224, 224)
    ]
    counts = [len(tables.parameters("zoom_blur", severity, 32)) for severity in SEVERITIES]
    assert counts == [7, 12, 16, 21, 26]
    lefts = [tables.parameters("pixelate", severity, 32)[0] for severity in SEVERITIES]
    assert lefts == [30, 28, 27, 24, 20]
    assert tables.parameters("pixelate", 5, 28) == (18,)
    assert tables.parameters("frost", 1, 32)[2] == 0.2
    assert tables.parameters("frost", 1, 128)[2] == 0.6
    assert tables.parameters("elastic_transform", 1, 224) == (488, 244 * 0.7, 244 * 0.1)
    np.testing.assert_allclose(tables.parameters("elastic_transform", 2, 16), (0.8, 3.2, 1.12))


@pytest.mark.parametrize("side", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_original_with_its_draws(recorded, name, side):
    """Every byte of every image, at every severity.

    All of libjpeg-turbo 3 gives the same JPEG; other libraries need not. The elastic transform
    looks between pixels in double precision, the original in single: a value on the edge of a level
    can fall to either side.
    """
    from PIL import features

    images = enlarged(recorded["images"], side)
    for severity in SEVERITIES:
        found = replayed(images, name, severity, range(len(images)))
        at = NAMES.index(name), severity - 1
        gaps = np.abs(sampled(found).astype(int) - recorded[f"samples_{side}"][at])
        turbo = features.version("libjpeg_turbo") or ""
        if name == "jpeg_compression" and not turbo.startswith("3."):
            assert gaps.mean() < 1
        elif name == "elastic_transform":
            assert gaps.max() <= 1 and gaps.mean() < 1e-3
        else:
            assert digests(found) == recorded[f"digests_{side}"][at].tolist()
            assert not gaps.any()


@pytest.mark.parametrize("name", RANDOM)
def test_draws_stay_the_same(recorded, name):
    """Sets of the same seed can be compared, whenever and wherever they were made."""
    outputs = [corrupt(recorded["images"], name, severity) for severity in SEVERITIES]
    assert digests(outputs) == recorded["own"][RANDOM.index(name)].tolist()


@pytest.mark.parametrize("name", RANDOM)
def test_changes_as_much_as_the_original(recorded, name):
    """The mean of |corrupted - clean|, within five times what it would vary by."""
    images = recorded["images"]
    means, spreads = (recorded[key][RANDOM.index(name)] for key in ("changes", "spreads"))
    for severity, mean, spread in zip(SEVERITIES, means, spreads, strict=True):
        changed = [
            np.abs(corrupt(images, name, severity, seed=seed).astype(int) - images)
            for seed in (0, 1)
        ]
        of_ours, of_theirs = spread**2 / 2, spread**2 / REPEATS
        deviation = np.sqrt((of_ours + of_theirs).sum()) / len(images)
        assert abs(np.mean(changed) - mean.mean()) < 5 * deviation


@pytest.mark.parametrize("name", NAMES)
def test_any_part_in_any_order(recorded, name, monkeypatch):
    images = recorded["images"][:7]
    whole = corrupt(images, name, 4, seed=3)
    order = [5, 0, 3]
    np.testing.assert_array_equal(
        corrupt(images[order], name, 4, seed=3, indices=order), whole[order]
    )
    monkeypatch.setattr(MODULE, "_PIXELS", 3 * 32 * 32)
    np.testing.assert_array_equal(corrupt(images, name, 4, seed=3), whole)
    assert corrupt(images[:0], name, 4).shape == (0, 32, 32, 3)


@pytest.mark.parametrize("name", RANDOM)
def test_draws_hang_on_seed_severity_and_index(recorded, name):
    image = recorded["images"][:1]
    outputs = [
        corrupt(image, name, 5, **options)
        for options in ({}, {"seed": 1}, {"indices": [1]}, {"indices": [2**40]})
    ]
    for one, other in itertools.combinations(outputs, 2):
        assert (one != other).any()


def test_draws_hang_on_the_corruption(recorded):
    """Both start with normal noise; what one adds is no multiple of what the other adds."""
    gray = np.full((1, 32, 32, 3), 128, np.uint8)
    added = [corrupt(gray, name, 3).astype(float) - 128 for name in ("gaussian_noise", EXTRA[0])]
    assert abs(np.corrcoef(added[0].ravel(), added[1].ravel())[0, 1]) < 0.1


def test_draws_cover_their_ranges():
    """The same as the originals' on the average is not yet the same from end to end."""
    image, rng = np.zeros((32, 32, 3), np.uint8), np.random.default_rng(0)

    def ends(name, part=0, count=2000):
        values = tables.parameters(name, 5, 32)
        drawn = np.stack([OPERATORS[name].draw(rng, image, values)[part] for _ in range(count)])
        return drawn.min(axis=0), drawn.max(axis=0)

    np.testing.assert_allclose(ends("motion_blur"), (-45, 45), atol=0.5)
    np.testing.assert_allclose(ends("snow", 1), (-135, -45), atol=0.5)
    reach = 0.03 * 32
    low, high = ends("elastic_transform")
    np.testing.assert_allclose(
        (low, high), (np.full((3, 2), -reach), np.full((3, 2), reach)), atol=0.02
    )
    low, high = ends("elastic_transform", 1, 50)
    np.testing.assert_allclose((low.min(), high.max()), (-1, 1), atol=1e-3)
    low, high = ends("glass_blur", count=50)
    assert (low.min(), high.max()) == (-1, 0)
    low, high = ends("frost")
    assert low.tolist() == [0, 0, 0] and high[0] == 4
    widest = np.max([weather._texture(index, 0.2).shape[:2] for index in range(5)], axis=0)
    assert (widest - 32 - high[1:] <= 3).all() and (high[1:] < widest - 32).all()


@pytest.mark.parametrize("reach", [1, 2, 4])
def test_glass_takes_pixel_after_pixel(reach):
    """As a plain loop, in which a pixel may take what an earlier one has taken."""
    side = 20
    scanned = side - 2 * reach
    steps = np.random.default_rng(reach).integers(-reach, reach, (3, scanned, scanned, 2))
    found = blur._sources(steps, side, reach)
    assert (found.max() < side * side) and (found.min() >= 0)
    for own, image_steps in zip(found.reshape(-1, side, side), steps, strict=True):
        pixels = np.arange(side * side).reshape(side, side)
        scan = range(side - reach, reach, -1)
        for (row, column), (x, y) in zip(
            itertools.product(scan, scan), image_steps.reshape(-1, 2), strict=True
        ):
            pixels[row, column] = pixels[row + y, column + x]
        np.testing.assert_array_equal(own, pixels)


def test_no_drop_leaves_the_image(recorded):
    images = pair(recorded)
    for severity in (1, 5):
        values = tables.parameters("spatter", severity, 32)
        found = OPERATORS["spatter"].apply(images, values, np.zeros((2, 32, 32)))
        np.testing.assert_array_equal(found, images)


@pytest.mark.parametrize("name", NAMES)
def test_gray_is_rgb_with_equal_channels(recorded, name):
    from PIL import Image

    gray = recorded["images"][:2, :, :, 1:2][:, 2:-2, 2:-2]
    found = corrupt(gray, name, 5)
    assert found.shape == (2, 28, 28, 1) and found.dtype == np.uint8
    rgb = corrupt(np.repeat(gray, 3, axis=-1), name, 5)
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in rgb])
    np.testing.assert_array_equal(found[..., 0], expected)


@pytest.mark.parametrize("side", [8, 28, 96])
@pytest.mark.parametrize("name", NAMES)
def test_other_sides(recorded, name, side):
    whole = enlarged(recorded["images"], 224)[:, :side, :side]
    found = corrupt(whole, name, 5)
    assert found.shape == whole.shape
    assert np.abs(found.astype(int) - whole).mean() > 0.5


def test_is_worse_with_each_severity(recorded):
    """Of what is monotonous in the published sets, on an image with texture."""
    image = pair(recorded)
    for name in (
        "gaussian_noise",
        "impulse_noise",
        "gaussian_blur",
        "zoom_blur",
        "fog",
        "contrast",
    ):
        changes = [
            np.abs(corrupt(image, name, severity).astype(int) - image).mean()
            for severity in SEVERITIES
        ]
        assert changes == sorted(changes), name


def test_textures_are_shipped_with_their_notice():
    folder = Path(weather.__file__).parent / "frost"
    assert {path.name for path in folder.iterdir()} == {"NOTICE", *weather._TEXTURES}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"name": "snowe"}, "Did you mean 'snow'"),
        ({"severity": 6}, "severity is 6: use 1 to 5"),
        ({"seed": -1}, "seed is -1"),
        ({"indices": [1, 2]}, "1 images have 2 indices"),
        ({"images": np.zeros((1, 32, 32, 3), np.float32)}, "float32"),
        ({"images": np.zeros((1, 32, 30, 3), np.uint8)}, "32 x 30"),
        ({"images": np.zeros((1, 4, 4, 3), np.uint8)}, "8 x 8 pixels or more"),
        ({"images": np.zeros((1, 32, 32, 4), np.uint8)}, "4 channels"),
    ],
)
def test_errors(unchecked, changed, says):
    arguments = {"images": np.zeros((1, 32, 32, 3), np.uint8), "name": "snow", "severity": 1}
    with pytest.raises(ConfigError, match=says):
        corrupt(**{**arguments, **changed})


def test_without_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    image = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(ConfigError, match="pip install opencv-python-headless"):
        corrupt(image, "spatter", 1)
    assert corrupt(image, "gaussian_noise", 1).any()
