"""SaliencyMix, FMix, ResizeMix, GridMix, SmoothMix: recorded results, NumPy, and how draws fall."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automix_jax.mixups.boxes import Box, box_around, outside
from automix_jax.mixups.fmix import fmix, largest, low_frequency_noise
from automix_jax.mixups.gridmix import grid_mask, gridmix, random_grid
from automix_jax.mixups.pixels import to_uint8
from automix_jax.mixups.resizemix import resizemix, squeezed
from automix_jax.mixups.saliency import fine_grained, spectral_residual
from automix_jax.mixups.saliencymix import saliencymix
from automix_jax.mixups.smoothmix import smoothmix

CLASSES = 5
CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
METHODS = {
    "saliencymix": saliencymix,
    "spectral": functools.partial(saliencymix, detector="spectral"),
    "fmix": fmix,
    "resizemix": resizemix,
    "bilinear": functools.partial(resizemix, interpolation="bilinear"),
    "gridmix": gridmix,
    "smoothmix": smoothmix,
}


@functools.cache
def compiled(method, **options):
    """A method under jit, of (seed, images, labels), lam and perm as keywords."""
    mix = functools.partial(METHODS[method], num_classes=CLASSES, **options)
    return jax.jit(lambda seed, *batch, **given: mix(jax.random.key(seed), *batch, **given))


def batch(shape, seed=0, dtype="float32"):
    """(images, labels) of noise that is smooth enough to have shapes in it."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(shape)
    smooth = sum(np.roll(noise, (i, j), (1, 2)) for i in range(4) for j in range(4)) / 4
    return jnp.asarray(smooth, dtype), jnp.asarray(rng.integers(0, CLASSES, shape[0]))


@pytest.fixture
def recorded(vectors):
    """The recorded arrays, images as NHWC."""
    with np.load(vectors / "baselines_golden.npz") as file:
        return {key: a.transpose(0, 2, 3, 1) if _is_images(a) else a for key, a in file.items()}


def _is_images(array):
    return array.ndim == 4 and array.shape[1] == 3


# -- what holds of all -------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("shape", "dtype", "per"),
    [
        ((1, 31, 45, 1), "float32", "batch"),
        ((3, 31, 45, 3), "bfloat16", "sample"),
        ((3, 8, 8, 3), "float32", "batch"),
    ],
)
def test_masks_and_labels_agree(method, shape, dtype, per):
    """A label weighs what the mask shows; FMix's may be a pixel off. One mask a batch, or each."""
    mix = compiled(method, per=per)
    images, labels = batch(shape, dtype=dtype)
    for seed in range(4):
        mixed = mix(seed, images, labels)
        mask, lam = np.asarray(mixed.info["mask"], np.float64), np.asarray(mixed.info["lam"])
        assert mixed.images.dtype == images.dtype
        assert np.isfinite(np.asarray(mixed.images, np.float32)).all()
        pixel = 1 / (shape[1] * shape[2]) if method == "fmix" else 0
        np.testing.assert_allclose(mask.mean((1, 2, 3)), lam, atol=pixel + 1e-6)
        alone = (mask == mask[:1]).all() and (lam == lam[0]).all()
        assert alone == (per == "batch" or shape[0] == 1)
        partners = np.asarray(images, np.float64)[np.asarray(mixed.info["perm"])]
        if method not in ("resizemix", "bilinear"):
            expected = mask * np.asarray(images, np.float64) + (1 - mask) * partners
            rounding = 2**-8 if dtype == "bfloat16" else 1e-6
            np.testing.assert_allclose(
                np.asarray(mixed.images, np.float64), expected, rtol=rounding, atol=rounding
            )


@pytest.mark.parametrize("method", METHODS)
def test_ratio_one_and_zero(method):
    """One ratio each: 1 gives the image back, 0 as little of it as the borders allow."""
    images, labels = batch((3, 31, 45, 3))
    lam, perm = jnp.asarray([1.0, 0.0, 1.0]), jnp.asarray([1, 2, 0])
    mixed = compiled(method)(0, images, labels, lam=lam, perm=perm)
    for i in (0, 2):
        np.testing.assert_array_equal(mixed.images[i], images[i])
        # The mask's pixels are counted in float32: up to one rounding off.
        np.testing.assert_allclose(mixed.info["lam"][i], 1, atol=1e-7)
    assert mixed.info["lam"][1] < 0.8
    if method in ("fmix", "smoothmix"):
        np.testing.assert_array_equal(mixed.images[1], images[2])
        assert mixed.info["lam"][1] == 0
    # Where there is nothing to see, nothing is seen, and nothing is not a number.
    flat = jnp.full(images.shape, 0.25)
    mixed = compiled(method)(0, flat, labels, lam=0.5 * lam + 0.2, perm=perm)
    np.testing.assert_allclose(mixed.images, flat, atol=1e-6)
    assert np.isfinite(mixed.targets).all()


@pytest.mark.parametrize(
    ("method", "options", "mean", "deviation"),
    [
        # Means of 200 000 draws in NumPy, 100 000 for the grids; deviations of one draw.
        ("saliencymix", {"variant": "published"}, 0.7008, 0.183),
        ("saliencymix", {"variant": "published", "alpha": 0.2}, 0.7244, 0.244),
        ("resizemix", {}, 0.8416, 0.127),
        ("gridmix", {"alpha": 0.2}, 0.7294, 0.230),
        ("gridmix", {"alpha": 0.2, "variant": "published"}, 0.7413, 0.220),
        ("gridmix", {"variant": "published"}, 0.7278, 0.173),
        ("smoothmix", {}, 1 - 0.4288, 0.128),
        ("smoothmix", {"variant": "published"}, 0.4288, 0.128),
    ],
)
def test_mean_ratio(method, options, mean, deviation):
    """The weight of the own label at 32 pixels: its mean to four standard errors, its spread."""
    images, labels = jnp.zeros((1, 32, 32, 1)), jnp.zeros(1, jnp.int32)
    mix = functools.partial(METHODS[method], num_classes=CLASSES, **options)
    ratios = jax.jit(jax.vmap(lambda rng: mix(rng, images, labels).info["lam"][0]))
    lam = np.asarray(ratios(jax.random.split(jax.random.key(0), 20_000)))
    assert lam.mean() == pytest.approx(mean, abs=4 * deviation / np.sqrt(len(lam)))
    assert lam.std() == pytest.approx(deviation, abs=0.005)


# -- saliency ----------------------------------------------------------------------------------


def mirrored(x, kernel):
    """Both axes of [H, W] correlated with a kernel."""
    reach = len(kernel) // 2
    for _ in range(2):
        padded = np.pad(x, ((reach, reach), (0, 0)), mode="reflect")
        x = sum(weight * padded[i : i + len(x)] for i, weight in enumerate(kernel)).T
    return x


def gray_of(image):
    """OpenCV's, [H, W] of ints."""
    wide = image.astype(int)
    if wide.shape[2] == 1:
        return wide[..., 0]
    return (3735 * wide[..., 0] + 19235 * wide[..., 1] + 9798 * wide[..., 2] + 16384) >> 15


def fine_grained_numpy(image):
    """As OpenCV computes it: float32 where it has floats, the casts it has."""
    gray = gray_of(image)
    for _ in range(2):
        gray = (mirrored(gray, (1, 2, 1)) + 8) >> 4
    height, width = gray.shape
    integral = np.zeros((height + 1, width + 1), np.int64)
    integral[1:, 1:] = gray.cumsum(0).cumsum(1)
    sums = np.zeros((2, height, width), int)
    y, x = np.mgrid[:height, :width]
    for radius in (12, 24, 48, 28, 56, 112):
        y1, x1 = np.maximum(y - radius + 1, 0), np.maximum(x - radius + 1, 0)
        y2, x2 = np.minimum(y + radius + 1, height), np.minimum(x + radius + 1, width)
        total = integral[y2, x2] + integral[y1, x1] - integral[y2, x1] - integral[y1, x2]
        mean = np.float32(total - gray) / np.float32((x2 - x1) * (y2 - y1) - 1)
        difference = np.float32(gray) - mean
        sums[0] += np.maximum(difference, 0).astype(int)
        sums[1] += np.maximum(-difference, 0).astype(int)
    bytes_ = (255.0 * np.float64(np.float32(s) / np.float32(max(s.max(), 1))) for s in sums)
    return (sum(np.floor(b).astype(int) for b in bytes_) % 256).astype(np.uint8)


def interpolated(x, side):
    """The first axis resized, half-pixel centres, edges repeated."""
    position = np.clip((np.arange(side) + 0.5) * len(x) / side - 0.5, 0, len(x) - 1)
    lower = np.floor(position).astype(int)
    weight = (position - lower).reshape(-1, *[1] * (x.ndim - 1))
    return (1 - weight) * x[lower] + weight * x[np.minimum(lower + 1, len(x) - 1)]


def bilinear_numpy(x, height, width):
    return interpolated(interpolated(x, height).swapaxes(0, 1), width).swapaxes(0, 1)


def spectral_numpy(image):
    small = np.floor(bilinear_numpy(gray_of(image).astype(np.float64), 64, 64) + 0.5)
    spectrum = np.fft.fft2(small)
    logs = np.log(1 + np.abs(spectrum))
    residual = np.exp(logs - mirrored(logs, (1 / 3, 1 / 3, 1 / 3)))
    back = np.abs(np.fft.ifft2(residual * np.exp(1j * np.angle(spectrum))))
    bell = np.exp(-(np.arange(-2, 3) ** 2) / 128)
    energy = mirrored(back, bell / bell.sum()) ** 2
    return bilinear_numpy(energy / energy.max(), *image.shape[:2])


@pytest.mark.parametrize("shape", [(2, 31, 45, 3), (1, 130, 250, 1), (1, 250, 130, 3)])
@pytest.mark.parametrize("kind", ["noise", "smooth", "square"])
def test_filters_equal_numpy(shape, kind):
    """The integers of one against the floats of the other, to the bit; windows of all sizes."""
    rng = np.random.default_rng(0)
    if kind == "noise":
        images = rng.integers(0, 256, shape).astype(np.uint8)
    elif kind == "smooth":
        images = np.asarray(to_uint8(batch(shape)[0], (0.5,), (0.5,)))
    else:
        images = np.full(shape, 10, np.uint8)
        images[:, 5:15, 20:28] = 200
    expected = np.stack([fine_grained_numpy(image) for image in images])
    np.testing.assert_array_equal(jax.jit(fine_grained)(images), expected)
    expected = np.stack([spectral_numpy(image) for image in images])
    # A map's largest number is near 1: a few roundings of float32 spectra of up to 10^6.
    np.testing.assert_allclose(jax.jit(spectral_residual)(images), expected, atol=1e-4)


def test_recorded_saliency(recorded):
    """OpenCV's own maps."""
    images = jnp.asarray(recorded["common_u8"])
    np.testing.assert_array_equal(jax.jit(fine_grained)(images), recorded["saliency_fine_u8"])
    ours, theirs = np.asarray(jax.jit(spectral_residual)(images)), recorded["saliency_spectral_u8"]
    # 1.7e-5 in float64: OpenCV's angles are rounded. Float32 adds as much.
    np.testing.assert_allclose(ours, theirs, atol=4e-5)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.argmax() == other.argmax()


def test_recorded_peaks(recorded):
    """Boxes lie around the peaks of OpenCV's maps."""
    images, labels = jnp.asarray(recorded["common_x"]), jnp.asarray(recorded["common_y"])
    np.testing.assert_array_equal(to_uint8(images, *CIFAR.values()), recorded["common_u8"])
    perm = jnp.asarray([2, 0, 3, 1])
    mix = compiled("saliencymix", per="sample", **CIFAR)
    mixed = mix(0, images, labels, lam=0.6, perm=perm)
    peaks = recorded["saliency_fine_u8"][perm].reshape(4, -1).argmax(1)
    np.testing.assert_array_equal(mixed.info["mask"], boxes_at(peaks, 0.6, (32, 32)))


def boxes_at(peaks, lam, size):
    """Masks of boxes around pixels, by their place in the raveled image."""
    centre = jnp.asarray(peaks // size[1]), jnp.asarray(peaks % size[1])
    return outside(box_around(centre, jnp.sqrt(1 - jnp.asarray([lam])), size), size)


@pytest.mark.parametrize(
    ("method", "filtered"), [("saliencymix", fine_grained_numpy), ("spectral", spectral_numpy)]
)
@pytest.mark.parametrize("per", ["batch", "sample"])
def test_boxes_lie_on_peaks(method, filtered, per):
    """One box around the peak of the first pasted image, or one around each image's own."""
    size, std = (31, 45), (0.2, 0.25, 0.3)
    images, labels = batch((3, *size, 3))
    mixed = compiled(method, per=per, std=std)(0, images, labels, lam=0.7)
    pasted = np.asarray(to_uint8(images, (0.5,), std))[np.asarray(mixed.info["perm"])]
    peaks = np.asarray([filtered(image).argmax() for image in pasted])
    peaks = peaks if per == "sample" else peaks[:1]
    masks = np.broadcast_to(boxes_at(peaks, 0.7, size), (3, *size, 1))
    np.testing.assert_array_equal(mixed.info["mask"], masks)


def test_published_centre_is_drawn():
    """Another key moves the box, another image does not."""
    mix = compiled("saliencymix", variant="published")
    images, labels = batch((2, 32, 32, 3))
    first, second = (mix(0, x, labels, lam=0.8).info["mask"] for x in (images, -images[:, ::-1]))
    np.testing.assert_array_equal(first, second)
    masks = {mix(seed, images, labels, lam=0.8).info["mask"][0].tobytes() for seed in range(8)}
    assert len(masks) > 4


# -- FMix --------------------------------------------------------------------------------------


def low_frequency_numpy(noise, width, decay, variant):
    """As the authors have it, [H, W] from noise [H, F, 2]."""
    height = len(noise)
    frequency = np.sqrt(np.fft.fftfreq(height)[:, None] ** 2 + np.fft.rfftfreq(width) ** 2)
    parts = noise / np.maximum(frequency, 1 / max(height, width))[..., None] ** decay
    real, imaginary = parts[:2] if variant == "published" else np.moveaxis(parts, 2, 0)
    return np.fft.irfftn(real + 1j * imaginary, (height, width), axes=(0, 1))


@pytest.mark.parametrize("variant", ["paper", "published"])
@pytest.mark.parametrize("size", [(32, 32), (31, 45), (45, 31), (8, 64)])
def test_low_frequencies_equal_numpy(size, variant):
    height, width = size
    noise = np.random.default_rng(0).standard_normal((2, height, width // 2 + 1, 2))
    ours = low_frequency_noise(jnp.asarray(noise, jnp.float32), width, 3.0, variant)
    for mine, parts in zip(ours, noise, strict=True):
        other = low_frequency_numpy(parts, width, 3.0, variant)
        np.testing.assert_allclose(mine, other, atol=2e-6 * np.abs(other).max())


def test_recorded_low_frequencies(recorded):
    """The authors' gray images, scaled to [0, 1] as they do, and the masks cut from one."""
    noise = jnp.asarray(recorded["fmix_noise"], jnp.float32)
    for variant, name in (("paper", "intended"), ("published", "as_published")):
        gray = np.asarray(low_frequency_noise(noise, 32, 3.0, variant))[0]
        gray = (gray - gray.min()) / (gray.max() - gray.min())
        np.testing.assert_allclose(gray, recorded[f"fmix_grey_{name}"], atol=5e-7)
    smooth = low_frequency_noise(noise, 32, 3.0)
    for lam, count in ((0.1, 102), (0.5, 512), (0.83, 849)):
        mask = largest(smooth, jnp.asarray([float(count)]))
        np.testing.assert_array_equal(mask[0, ..., 0], recorded[f"fmix_mask_lam{lam}"])


def test_published_spectrum_has_one_wave_a_row():
    noise = jax.random.normal(jax.random.key(0), (64, 32, 17, 2))
    for variant in ("paper", "published"):
        power = np.abs(np.fft.fft2(low_frequency_noise(noise, 32, 3.0, variant))) ** 2
        by_row, by_column = power[:, 2:31].sum() / power.sum(), power[..., 2:31].sum() / power.sum()
        if variant == "paper":
            assert by_row == pytest.approx(by_column, rel=0.3)
            assert by_column > 0.005
        else:
            assert by_row > 0.005
            assert by_column < 1e-10


def test_largest():
    """Against a sort; one count for all images, one image for all counts; none and all."""
    values = np.random.default_rng(0).standard_normal((3, 31, 45)).astype(np.float32)
    total = 31 * 45
    for counts in ([0, 1, total], [total - 1, 700, 13], [300]):
        for images in (values, values[:1]):
            masks = np.asarray(largest(jnp.asarray(images), jnp.asarray(counts, jnp.float32)))
            ranks = (-images.reshape(len(images), -1)).argsort(1).argsort(1)
            expected = ranks < np.asarray(counts)[:, None]
            np.testing.assert_array_equal(masks.reshape(len(masks), -1), expected)


def test_fmix_label_and_pixels():
    """The label weighs the ratio itself; its pixels are rounded up as often as down."""
    images, labels = batch((2, 31, 45, 1))
    lam, total = 0.3001, 31 * 45
    counts = []
    for seed in range(200):
        mixed = compiled("fmix")(seed, images, labels, lam=lam)
        np.testing.assert_allclose(mixed.info["lam"], lam, atol=1e-7)
        counts.append(np.asarray(mixed.info["mask"][0]).sum())
    low = int(np.floor(lam * total))
    assert {*counts} == {low, low + 1}
    # Four standard errors of a fair coin.
    assert np.mean(np.asarray(counts) == low) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(200))


def test_decay_smooths():
    """Fewer borders between the images as frequencies fall faster."""
    images, labels = batch((2, 32, 32, 1))
    borders = [
        np.mean(
            [
                np.abs(
                    np.diff(
                        compiled("fmix", decay=decay)(s, images, labels, lam=0.5).info["mask"][0],
                        axis=0,
                    )
                ).sum()
                for s in range(8)
            ]
        )
        for decay in (1.0, 3.0)
    ]
    assert borders[0] > 2 * borders[1]


# -- ResizeMix ---------------------------------------------------------------------------------


def test_recorded_resizes(recorded):
    """The authors' function under scripted draws; theirs has the first coordinate along columns."""
    images, perm = jnp.asarray(recorded["common_x"]), recorded["common_perm"]
    cases = recorded["resizemix_cases_tau_cx_cy_lam"]
    assert len(cases) == 5
    for i, (side, column, row, lam) in enumerate(cases):
        centre = jnp.asarray([int(row)]), jnp.asarray([int(column)])
        box = box_around(centre, jnp.asarray([side]), (32, 32))
        mask = outside(box, (32, 32))
        np.testing.assert_allclose(mask.mean(), lam, atol=1e-7)
        for interpolation, tolerance in (("nearest", 0), ("bilinear", 4e-6)):
            mixed = mask * images + (1 - mask) * squeezed(images[perm], box, interpolation)
            theirs = recorded[f"resizemix_{interpolation}_{i}_x"]
            # PyTorch rounds positions to float32, up to 1e-6 of a pixel.
            np.testing.assert_allclose(mixed, theirs, rtol=0, atol=tolerance)


def nearest_numpy(x, height, width):
    return x[np.arange(height) * len(x) // height][:, np.arange(width) * x.shape[1] // width]


@pytest.mark.parametrize("per", ["batch", "sample"])
@pytest.mark.parametrize(
    ("method", "resize"), [("resizemix", nearest_numpy), ("bilinear", bilinear_numpy)]
)
def test_boxes_hold_whole_partners(method, resize, per):
    """What a box shows is its partner, resized to it, clipped boxes included."""
    images, labels = batch((3, 31, 45, 3))
    clipped = 0
    for seed in range(16):
        mixed = compiled(method, per=per)(seed, images, labels)
        for i, partner in enumerate(np.asarray(mixed.info["perm"])):
            rows, columns = np.nonzero(np.asarray(mixed.info["mask"][i, ..., 0]) == 0)
            box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
            height, width = (edge.stop - edge.start for edge in box)
            clipped += rows.min() == 0 or columns.min() == 0
            expected = np.array(images[i])
            expected[box] = resize(np.asarray(images[partner], np.float64), height, width)
            np.testing.assert_allclose(mixed.images[i], expected, rtol=0, atol=1e-6)
    assert clipped > 4


def test_sides_of_boxes():
    """Drawn from the scope, or from a given ratio; the largest seen are those that fit."""
    images, labels = jnp.zeros((200, 40, 60, 1)), jnp.zeros(200, jnp.int32)
    for options, given, low, high in (
        ({"scope": (0.3, 0.5)}, {}, 0.3, 0.5),
        ({}, {"lam": 0.75}, 0.5, 0.5),
    ):
        mask = compiled("resizemix", per="sample", **options)(0, images, labels, **given).info[
            "mask"
        ]
        hole = 1 - np.asarray(mask[..., 0])
        for axis, side in ((1, 40), (2, 60)):
            sides = hole.max(3 - axis).sum(1)
            assert sides.max() <= high * side
            assert sides.max() >= high * side - 3
            assert sides.min() >= low * side // 2 - 1  # no more than half is cut off


def test_no_box():
    """Empty ones show nothing, and read nothing that is not there."""
    images, _ = batch((1, 8, 8, 1))
    nowhere = Box(*(jnp.asarray([3]) for _ in range(4)))
    for interpolation in ("nearest", "bilinear"):
        assert np.isfinite(squeezed(images, nowhere, interpolation)).all()


# -- GridMix -----------------------------------------------------------------------------------


def grid_numpy(grid, lam, size, variant):
    """OpenMixup's law, holes one by one; [H, W], 1 in the holes."""
    height, width = size
    holes, area, aspect, row, column = grid
    crop_width = int(np.sqrt(int(height * width * area) / aspect))
    crop_height = int(crop_width * aspect)
    if variant == "paper":
        crop_width, crop_height = min(crop_width, width), min(crop_height, height)
    top, left = int((height - crop_height) * row), int((width - crop_width) * column)
    holes = min(int(holes), max(crop_width // 2, 1))
    step = int(np.ceil(crop_width / holes))
    hole = min(max(int(step * np.sqrt(1 - lam)), 1), step - 1)
    mask = np.zeros(size)
    for x in range(0, step * (holes + 1), step):
        for y in range(0, crop_height + step, step):
            x1, y1 = min(x, crop_width), min(y, crop_height)
            x2, y2 = min(x1 + hole, crop_width), min(y1 + hole, crop_height)
            mask[top + y1 : top + y2, left + x1 : left + x2] = 1
    return mask, min(top, left) < 0


@pytest.mark.parametrize("variant", ["paper", "published"])
@pytest.mark.parametrize("size", [(32, 32), (31, 45), (8, 8)])
def test_grids_equal_numpy(size, variant):
    """Holes at negative indices too, which OpenMixup's slices move or lose."""
    count = 500
    grid = random_grid(jax.random.key(0), count)
    lam = jax.random.uniform(jax.random.key(1), (count,))
    masks = 1 - np.asarray(jax.jit(grid_mask, static_argnums=(2, 3))(grid, lam, size, variant))
    drawn = zip(*(np.asarray(part, np.float64) for part in grid), strict=True)
    negative = 0
    for mask, one, ratio in zip(masks[..., 0], drawn, np.asarray(lam, np.float64), strict=True):
        expected, outer = grid_numpy(one, ratio, size, variant)
        np.testing.assert_array_equal(mask, expected)
        negative += outer
    if variant == "published":
        assert negative > 2
    else:
        assert negative == 0


def test_grids_are_drawn_from_their_ranges():
    grid = random_grid(jax.random.key(0), 4000)
    assert {*np.asarray(grid.holes).tolist()} == {2, 3, 4, 5, 6}
    ends = {"area": (0.5, 1.0), "aspect": (0.5, 2.0), "row": (0.0, 1.0), "column": (0.0, 1.0)}
    for name, (low, high) in ends.items():
        values = np.asarray(getattr(grid, name))
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high
    parts = np.stack([np.asarray(part, np.float64) for part in grid])
    # Drawn apart: four standard errors of a correlation.
    assert np.abs(np.corrcoef(parts) - np.eye(5)).max() < 4 / np.sqrt(4000)


# -- SmoothMix ---------------------------------------------------------------------------------


def spot_numpy(side, deviation, row, column):
    """OpenMixup's: coordinates of twice the image, rolled, cut, and measured from their middle."""
    first, second = np.mgrid[: 2 * side, : 2 * side]
    shift = row - side // 2, column - side // 2
    cut = slice(side // 2, 2 * side - side // 2)
    squares = [
        (np.roll(coordinate, shift, (0, 1))[cut, cut] - (2 * side - 1) / 2) ** 2
        for coordinate in (first, second)
    ]
    return np.exp(-sum(squares) / (2 * deviation**2))


@pytest.mark.parametrize("variant", ["paper", "published"])
@pytest.mark.parametrize(("row", "column", "draw"), [(0, 31, 0.25), (16, 5, 0.41), (31, 0, 0.5)])
def test_spots_equal_numpy(monkeypatch, variant, row, column, draw):
    images, labels = batch((2, 32, 32, 3))
    centre = iter([row, column])
    monkeypatch.setattr(jax.random, "randint", lambda *_: jnp.asarray([next(centre)]))
    monkeypatch.setattr(jax.random, "uniform", lambda *_: jnp.asarray([draw], jnp.float32))
    perm = jnp.asarray([1, 0])
    mixed = smoothmix(
        jax.random.key(0), images, labels, num_classes=CLASSES, perm=perm, variant=variant
    )
    spot = spot_numpy(32, 32 * draw, row, column)[..., None]
    expected = np.asarray(images, np.float64) * (1 - spot) + np.asarray(images[perm]) * spot
    np.testing.assert_allclose(mixed.images, expected, atol=2e-6)
    own = spot.mean() if variant == "published" else 1 - spot.mean()
    np.testing.assert_allclose(mixed.info["lam"], own, atol=1e-6)
    np.testing.assert_allclose(mixed.info["mask"][0], 1 - spot, atol=1e-6)


@pytest.mark.parametrize("variant", ["paper", "published"])
@pytest.mark.parametrize("per", ["batch", "sample"])
def test_spots_of_given_ratios(variant, per):
    """Wherever the centre is, the width gives the label's weight, from 0 to 1."""
    images, labels = batch((7, 31, 45, 1))
    lam = jnp.asarray([0.0, 1e-3, 0.1, 0.5, 0.9, 0.999, 1.0])
    for seed in range(8):
        mixed = compiled("smoothmix", variant=variant, per=per)(seed, images, labels, lam=lam)
        np.testing.assert_allclose(mixed.info["lam"], lam, atol=2e-6)
        share = np.asarray(mixed.info["mask"], np.float64).mean((1, 2, 3))
        expected = 1 - lam if variant == "published" else lam
        np.testing.assert_allclose(share, expected, atol=2e-6)
        assert {share[0], share[6]} == {0, 1}
