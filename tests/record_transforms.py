"""Records what torchvision's and timm's transforms give, to hold ours against without them.

    python -m tests.record_transforms      # writes tests/data/transforms.npz

Needs torchvision and timm, which neither the package nor its tests install. Draws are recorded
beside the results, so that ours can be given the same.
"""

import itertools
import math
import random
from pathlib import Path
from unittest import mock

import numpy as np

ARRAYS = Path(__file__).parent / "data" / "transforms.npz"
ATTEMPTS = 10
MAGNITUDES = (0.0, 2.7, 5.0, 9.0, 9.6, 10.0)
FILL = (124, 116, 104)
GRAY_FILL = 118
POLICIES = (
    "rand-m9-mstd0.5-inc1",
    "rand-m7-mstd0.5-inc1",
    "rand-m6-n3-mstd0.5-inc1",
    "rand-m9-mstd101",
    "rand-n1-p0.7",
    "rand",
)
INTERPOLATIONS = ("bicubic", "bilinear")


def make_photo(seed, height, width):
    """Shapes, shading and some noise, so that no operation leaves it as it is; uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    row, col = np.mgrid[:height, :width]
    image = np.empty((height, width, 3))
    for channel in range(3):
        slope, phase = rng.uniform(0.1, 0.5, 2), rng.uniform(0, 6)
        image[..., channel] = 120 + 70 * np.sin(slope[0] * row + slope[1] * col + phase)
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        image[top : top + height // 3, left : left + width // 3, channel] += rng.uniform(-90, 90)
    image += rng.normal(0, 6, image.shape)
    return image.clip(5, 245).astype(np.uint8)


def record_crops(arrays):
    import torch
    from PIL import Image
    from torchvision.transforms import InterpolationMode, RandomResizedCrop
    from torchvision.transforms import functional as F

    shapes, draws, boxes = [], [], []
    cases = itertools.product(
        [(61, 46), (500, 375), (64, 64), (10, 200), (30000, 1), (1, 30000), (1, 1), (3, 2)],
        [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.5, 1.0), (3 / 4, 4 / 3)), ((0.9, 1.0), (0.3, 3.0))],
        range(10),
    )
    for seed, ((width, height), (scale, ratio), _) in enumerate(cases):
        image = torch.empty(1).expand(3, height, width)
        torch.manual_seed(seed)
        top, left, box_height, box_width = RandomResizedCrop.get_params(image, scale, ratio)
        torch.manual_seed(seed)
        log_ratio = torch.log(torch.tensor(ratio))
        areas, aspects = np.zeros(ATTEMPTS), np.ones(ATTEMPTS)  # An area of zero never fits.
        for attempt in range(ATTEMPTS):
            areas[attempt] = torch.empty(1).uniform_(*scale).item()
            drawn = torch.empty(1).uniform_(log_ratio[0], log_ratio[1])
            aspects[attempt] = torch.exp(drawn).item()
            sides = width * height * areas[attempt] * aspects[attempt] ** np.array([1.0, -1.0])
            fitted = np.round(np.sqrt(sides))
            if 0 < fitted[0] <= width and 0 < fitted[1] <= height:
                break
        shapes.append((width, height, *scale, *ratio))
        draws.append((areas, aspects))
        boxes.append((left, top, left + box_width, top + box_height))
    arrays["crop_shapes"], arrays["crop_draws"] = np.array(shapes), np.array(draws)
    arrays["crop_boxes"] = np.array(boxes)

    photo = Image.fromarray(arrays["photo"])
    rng = np.random.default_rng(1)
    boxes = []
    for _ in range(12):
        left, top = rng.integers(0, photo.width - 1), rng.integers(0, photo.height - 1)
        boxes.append(
            (
                left,
                top,
                rng.integers(left + 1, photo.width + 1),
                rng.integers(top + 1, photo.height + 1),
            )
        )
    arrays["resized_crop_boxes"] = np.array([*boxes, (0, 0, *photo.size)])
    for name in INTERPOLATIONS:
        arrays[f"resized_crop_{name}"] = np.stack(
            [
                F.resized_crop(
                    photo, top, left, bottom - top, right - left, [20, 20], InterpolationMode(name)
                )
                for left, top, right, bottom in arrays["resized_crop_boxes"].tolist()
            ]
        )


def record_step_crops(arrays):
    """Boxes that become as large as the image was, as inside the step."""
    from PIL import Image
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    small = Image.fromarray(arrays["small"])
    boxes = [(0, 0, 20, 24), (2, 3, 9, 13), (11, 1, 8, 19), (0, 20, 20, 3), (19, 23, 1, 1)]
    arrays["step_boxes"] = np.array(boxes)  # (top, left, height, width)
    for name in INTERPOLATIONS:
        arrays[f"step_{name}"] = np.stack(
            [F.resized_crop(small, *box, [20, 24], InterpolationMode(name)) for box in boxes]
        )


def record_test_transform(arrays):
    from PIL import Image
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize
    from torchvision.transforms.functional import _compute_resized_output_size

    rng = np.random.default_rng(2)
    sizes = []
    for _ in range(300):
        width, height = (int(2 ** rng.uniform(0, 11)) for _ in range(2))
        shorter = int(rng.integers(8, 300))
        new_height, new_width = _compute_resized_output_size((height, width), [shorter])
        sizes.append((width, height, shorter, new_width, new_height))
    arrays["resized_sizes"] = np.array(sizes)

    shapes = [(61, 46), (46, 61), (47, 47), (20, 31), (300, 12), (9, 131), (1, 1), (16, 16)]
    settings = [(16, 16), (16, 18), (16, 19), (15, 40)]  # (size, resize)
    arrays["test_shapes"], arrays["test_settings"] = np.array(shapes), np.array(settings)
    for (number, (width, height)), (size, resize), name in itertools.product(
        enumerate(shapes), settings, INTERPOLATIONS
    ):
        image = make_photo(10 + number, max(height, 4), max(width, 4))[:height, :width]
        arrays[f"test_image_{width}x{height}"] = image
        transform = Compose([Resize(resize, InterpolationMode(name)), CenterCrop(size)])
        arrays[f"test_{width}x{height}_{size}_{resize}_{name}"] = np.asarray(
            transform(Image.fromarray(image))
        )


def record_padded_crops(arrays):
    from PIL import Image
    from torchvision.transforms import functional as F

    photo = Image.fromarray(arrays["small"])
    arrays["padded_offsets"] = np.array([(0, 0), (8, 8), (4, 4), (1, 7), (6, 2)])
    for mode in ("constant", "reflect"):
        padded = F.pad(photo, [4], padding_mode=mode)
        arrays[f"padded_{mode}"] = np.stack(
            [
                F.crop(padded, top, left, photo.height, photo.width)
                for top, left in arrays["padded_offsets"].tolist()
            ]
        )


def record_color_jitter(arrays):
    import torch
    from PIL import Image
    from torchvision.transforms import ColorJitter

    photo = Image.fromarray(arrays["small"])
    orders, factors, results = [], [], []
    for seed, strength in enumerate((0.4, 0.4, 0.4, 0.1, 1.0, 1.0)):
        jitter = ColorJitter(strength, strength, strength)
        torch.manual_seed(seed)
        order, brightness, contrast, saturation, _ = jitter.get_params(
            jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue
        )
        torch.manual_seed(seed)
        results.append(np.asarray(jitter(photo)))
        orders.append([index for index in order.tolist() if index != 3])  # 3: hue, which is none
        factors.append((brightness, contrast, saturation))
    arrays["jitter_orders"], arrays["jitter_factors"] = np.array(orders), np.array(factors)
    arrays["jitter"] = np.stack(results)


def record_rand_augment(arrays):
    from PIL import Image
    from timm.data import auto_augment as timm

    photo, gray = Image.fromarray(arrays["small"]), Image.fromarray(arrays["small_gray"])
    sets = {"standard": timm._RAND_TRANSFORMS, "increasing": timm._RAND_INCREASING_TRANSFORMS}
    for name, ops in sets.items():
        cases, arguments, results, grays = [], [], [], []
        for (op_index, op), magnitude, sign in itertools.product(
            enumerate(ops), MAGNITUDES, (1, -1)
        ):
            with mock.patch.object(
                timm.random, "random", lambda sign=sign: 0.0 if sign > 0 else 1.0
            ):
                argument = timm.LEVEL_TO_ARG[op]
                values = argument(magnitude, {}) if argument else (0.0,)
                if (op_index, values) in [
                    (case[0], value) for case, value in zip(cases, arguments, strict=True)
                ]:
                    continue  # without a sign, or a magnitude that rounds to the same
                cases.append((op_index, magnitude, sign))
                arguments.append(values)
                hparams = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC}
                results.append(np.asarray(timm.AugmentOp(op, 1.0, magnitude, hparams)(photo)))
                hparams = {"img_mean": GRAY_FILL, "interpolation": Image.Resampling.BILINEAR}
                grays.append(np.asarray(timm.AugmentOp(op, 1.0, magnitude, hparams)(gray)))
        arrays[f"{name}_cases"] = np.array(cases)
        arrays[f"{name}_arguments"] = np.array(arguments)[:, 0]
        arrays[f"{name}_rgb"], arrays[f"{name}_gray"] = np.stack(results), np.stack(grays)

    said = []
    for policy in POLICIES:
        augment = timm.rand_augment_transform(policy, {})
        ops = augment.ops
        family = "increasing" if "ColorIncreasing" in [op.name for op in ops] else "standard"
        assert [op.name for op in ops] == sets[family]
        said.append(
            f"{policy} {family} {augment.num_layers} {ops[0].prob} {ops[0].magnitude}"
            f" {ops[0].magnitude_std}"
        )
    arrays["policies"] = np.array(said)


def record_erasing(arrays):
    import torch
    from timm.data import random_erasing as timm

    class Draws:
        """Stands for the module `random`, and keeps what it gave."""

        def __init__(self, seed):
            self.source = random.Random(seed)
            self.uniforms, self.corner = [], []

        def random(self):
            return 0.0

        def uniform(self, low, high):
            self.uniforms.append(self.source.uniform(low, high))
            return self.uniforms[-1]

        def randint(self, low, high):
            self.corner.append(self.source.randint(low, high))
            return self.corner[-1]

    shapes, all_draws, boxes = [], [], []
    for seed, (height, width) in itertools.product(
        range(40), [(224, 224), (9, 31), (32, 32), (3, 3)]
    ):
        draws = Draws(1000 * seed + height)
        erasing = timm.RandomErasing(1.0, mode="pixel", max_count=1, device="cpu")
        image = torch.zeros(1, height, width)
        with (
            mock.patch.object(timm, "random", draws),
            mock.patch.object(
                timm, "_get_pixels", lambda per_pixel, rand, size, **_: torch.ones(size)
            ),
        ):
            erasing(image)
        areas, aspects = np.full(ATTEMPTS, 9.0), np.ones(ATTEMPTS)  # An area of 9 never fits.
        pairs = np.array(draws.uniforms).reshape(-1, 2)
        areas[: len(pairs)] = pairs[:, 0]
        aspects[: len(pairs)] = [math.exp(log) for log in pairs[:, 1]]
        rows, cols = (np.flatnonzero(image[0].numpy().any(axis)) for axis in (1, 0))
        if len(rows):
            assert draws.corner == [rows[0], cols[0]]
            boxes.append((rows[0], cols[0], len(rows), len(cols)))
        else:
            boxes.append((0, 0, 0, 0))
        shapes.append((height, width))
        all_draws.append((areas, aspects))
    arrays["erase_shapes"], arrays["erase_draws"] = np.array(shapes), np.array(all_draws)
    arrays["erase_boxes"] = np.array(boxes)

    rng = np.random.default_rng(3)
    images, noise = rng.normal(size=(2, 6, 12, 15, 3)).astype(np.float32)
    erased, places = [], []
    for seed, (image, values) in enumerate(zip(images, noise, strict=True)):
        draws = Draws(seed)
        tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())

        def pixels(per_pixel, rand, size, values=values, draws=draws, **_):
            (top, left), (_, height, width) = draws.corner, size
            patch = values[top : top + height, left : left + width]
            return torch.from_numpy(patch.transpose(2, 0, 1).copy())

        with (
            mock.patch.object(timm, "random", draws),
            mock.patch.object(timm, "_get_pixels", pixels),
        ):
            timm.RandomErasing(1.0, mode="pixel", max_count=1, device="cpu")(tensor)
        result = tensor.numpy().transpose(1, 2, 0)
        changed = (result != image).any(-1)
        rows, cols = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        places.append((rows[0], cols[0], len(rows), len(cols)))
        erased.append(result)
    arrays["erased"], arrays["erased_boxes"] = np.stack(erased), np.array(places)
    arrays["erased_images"], arrays["erased_noise"] = images, noise


def record_pipeline(arrays):
    """A crop, a flip and two operations one after another, as in timm's training transform."""
    from PIL import Image
    from timm.data import auto_augment as timm
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    photo = Image.fromarray(arrays["photo"])
    hparams = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC}
    cropped = F.resized_crop(photo, 3, 7, 30, 36, [24, 24], InterpolationMode.BICUBIC)
    image = F.hflip(cropped)
    with mock.patch.object(timm.random, "random", lambda: 1.0):  # All signs are negative.
        for op in ("Rotate", "ColorIncreasing"):
            image = timm.AugmentOp(op, 1.0, 9, hparams)(image)
    arrays["pipeline"] = np.asarray(image)


def main():
    arrays = {"photo": make_photo(0, 46, 61), "small": make_photo(1, 20, 24)}
    arrays["small_gray"] = make_photo(2, 20, 24)[..., 0]
    record_crops(arrays)
    record_step_crops(arrays)
    record_test_transform(arrays)
    record_padded_crops(arrays)
    record_color_jitter(arrays)
    record_rand_augment(arrays)
    record_erasing(arrays)
    record_pipeline(arrays)
    np.savez_compressed(ARRAYS, **arrays)
    print(f"{ARRAYS}: {len(arrays)} arrays, {ARRAYS.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
