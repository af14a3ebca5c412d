"""Our corruptions against the generators of CIFAR-C, Tiny-ImageNet-C and ImageNet-C, live.

    python -m tests.live_corruptions ORIGINAL.py CIFAR.npz [--count 2000] [--record]

ORIGINAL.py is make_cifar_c.py of hendrycks/robustness (ImageNet-C/create_c); beside it lie
make_tinyimagenet_c.py and make_imagenet_c.py. CIFAR.npz holds images, uint8 [N, 32, 32, 3], as
`test_x`. Needs scikit-image, Wand and ImageMagick 6, which the tests do without:
`tests/test_corruptions.py` compares what was recorded here with --record, of images of its own.

Prints a line a corruption, over all severities:

    equal     how many values of how many differ from the original's with the same draws, the
              greatest difference and the mean one; only of the elastic transform one in a thousand
              may differ, by one level, for it looks between pixels more exactly
    mean, std of |corrupted - clean| with draws of our own, by how many percent each is off the
              original's, at the severity where it is furthest off; below 2

Exits with 1 if a limit is exceeded.
"""

import argparse
import itertools
import sys
import types
import warnings
from importlib import resources
from pathlib import Path

import numpy as np

from automix_jax.evaluate.corruptions import NAMES, SEVERITIES, SIZES, corrupt
from tests import test_corruptions as tested

FILES = {32: "make_cifar_c.py", 64: "make_tinyimagenet_c.py", 224: "make_imagenet_c.py"}


def load_original(path, seeded):
    """The functions of a generator, by name, mended where today's libraries lack what they use.

    Args:
        path: of the script, of which only the part that corrupts is run.
        seeded: makes the generator that scikit-image's noise draws from.
    """
    import scipy.ndimage
    import skimage
    import skimage.color
    from skimage.filters import gaussian

    def blurred(image, sigma, multichannel=False, **options):
        return gaussian(image, sigma, channel_axis=-1 if multichannel else None, **options)

    def noisy(image, mode, amount):
        return skimage.util.random_noise(image, mode, amount=amount, rng=seeded())

    numbers = types.ModuleType("numpy")
    vars(numbers).update(vars(np), float_=np.float64, fromstring=np.frombuffer)
    script = Path(path).read_text()
    script = script[script.index("# /////////////// Distortion Helpers") :]
    script = script[: script.index("# /////////////// End Distortions")]
    for line in (
        "import skimage as sk",
        "from skimage.filters import gaussian",
        "from scipy.ndimage.interpolation import map_coordinates",
    ):
        assert line in script
        script = script.replace(line, "")
    textures = resources.files("automix_jax.evaluate.corruptions") / "frost"
    script = script.replace("'./frost", f"'{textures}/frost")
    scope = {
        "np": numbers,
        "gaussian": blurred,
        "map_coordinates": scipy.ndimage.map_coordinates,
        "sk": types.SimpleNamespace(
            util=types.SimpleNamespace(random_noise=noisy), color=skimage.color
        ),
    }
    exec(compile(script, str(path), "exec"), scope)
    return {name: scope[name] for name in NAMES}


class Original:
    """The generator for images of one size, told what to draw by a seed."""

    def __init__(self, folder, side):
        self.seed = 0
        self.functions = load_original(
            folder / FILES[side], lambda: np.random.default_rng(self.seed)
        )

    def __call__(self, image, name, severity, seed):
        """What it makes of one image, uint8 [S, S, 3], with the draws of this seed."""
        from PIL import Image

        self.seed = seed
        np.random.seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a drop on no image it divides by zero
            corrupted = self.functions[name](Image.fromarray(image), severity)
            return np.uint8(corrupted)


def change(images, corrupted):
    """The mean and the standard deviation of |corrupted - clean|."""
    difference = np.abs(corrupted.astype(int) - images)
    return difference.mean(), difference.std()


def compare(original, images, name):
    """The line of a corruption, and whether it is within the limits."""
    unequal, greatest, total, off = 0, 0, 0.0, np.zeros(2)
    for severity in SEVERITIES:
        seeds = range(len(images))
        expected = np.stack(
            [original(image, name, severity, s) for image, s in zip(images, seeds, strict=True)]
        )
        found = tested.replayed(images, name, severity, seeds)
        gaps = np.abs(found.astype(int) - expected)
        unequal, greatest = unequal + np.count_nonzero(gaps), max(greatest, gaps.max())
        total += gaps.mean() / len(SEVERITIES)
        own, theirs = change(images, corrupt(images, name, severity)), change(images, expected)
        off = np.maximum(off, np.abs(np.array(own) / theirs - 1) * 100)
    count = images.size * len(SEVERITIES)
    share = 1e-3 if name == "elastic_transform" else 0
    good = unequal <= share * count and greatest <= (share > 0) and (off < 2).all()
    line = f"{name:18} equal but {unequal} of {count} (greatest {greatest}, mean {total:.1e})"
    return f"{line}, mean {off[0]:.2f} %, std {off[1]:.2f} %", good


def make_images():
    """Images that may be handed on: scenes, even surfaces, and clothes of Fashion-MNIST."""
    from automix_jax.data import load_dataset

    rng = np.random.default_rng(0)
    row, column = np.mgrid[:32, :32] / 32
    images = np.empty((tested.COUNT, 32, 32, 3))
    for image in images[:14]:
        for channel in range(3):
            waves = np.zeros((32, 32))
            for frequency in (2, 5, 10, 20):
                down, across = rng.normal(0, frequency, 2)
                phase = down * row + across * column + rng.uniform(0, 6)
                waves += rng.normal(0, 50 / frequency) * np.sin(phase)
            image[..., channel] = rng.uniform(60, 200) + waves
        for _ in range(3):
            top, left, height, width = rng.integers(2, 20, 4)
            image[top : top + height, left : left + width] += rng.uniform(-120, 120, 3)
        image += rng.normal(0, 4, image.shape)
    images[14:18] = [[[[255] * 3]], [[[0] * 3]], [[[128] * 3]], [[[200, 30, 90]]]]
    images[18] = np.tile(np.arange(32) * 8, (32, 1))[..., None]
    clothes = load_dataset("fashion_mnist_sample").test.images[: tested.COUNT - 19, ..., 0] / 255
    ink, paper = rng.uniform(0, 255, (2, len(clothes), 1, 1, 3))
    images[19:] = paper
    images[19:, 2:-2, 2:-2] += clothes[..., None] * (ink - paper)
    return images.clip(0, 255).astype(np.uint8)


def record(folder):
    """What the originals make of the tests' images, and how they change them on average."""
    images = make_images()
    arrays = {"images": images}
    for side in SIZES:
        original, own = Original(folder, side), tested.enlarged(images, side)
        shape = (len(NAMES), len(SEVERITIES), len(own))
        digests, samples = np.zeros(shape, np.uint32), []
        for digest, (name, severity) in zip(
            digests.reshape(-1, len(own)), itertools.product(NAMES, SEVERITIES), strict=True
        ):
            outputs = [original(image, name, severity, seed) for seed, image in enumerate(own)]
            digest[:] = tested.digests(outputs)
            samples.append(tested.sampled(np.stack(outputs)))
        arrays[f"digests_{side}"] = digests
        arrays[f"samples_{side}"] = np.reshape(samples, (*shape[:2], *np.shape(samples)[1:]))

    arrays["own"] = np.array(
        [
            tested.digests([corrupt(images, name, severity) for severity in SEVERITIES])
            for name in tested.RANDOM
        ],
        np.uint32,
    )
    original = Original(folder, 32)
    changes = np.zeros((tested.REPEATS, len(tested.RANDOM), len(SEVERITIES), len(images)))
    for repeat in range(tested.REPEATS):
        for column, row in itertools.product(range(len(tested.RANDOM)), range(len(SEVERITIES))):
            for index, image in enumerate(images):
                output = original(
                    image, tested.RANDOM[column], row + 1, 1000 * (repeat + 1) + index
                )
                changes[repeat, column, row, index] = change(image, output)[0]
    arrays["changes"], arrays["spreads"] = changes.mean(0), changes.std(0, ddof=1)
    return arrays


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("original", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    if options.record:
        np.savez_compressed(tested.ARRAYS, **record(options.original.parent))
    original = Original(options.original.parent, 32)
    images = np.load(options.images)["test_x"][: options.count]
    failed = 0
    for name in NAMES:
        line, good = compare(original, images, name)
        failed += not good
        print(line, "" if good else "EXCEEDS", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
