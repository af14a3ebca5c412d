"""Images per second and core: decoding, cropping, RandAugment, whole pipelines, by workers.

    python benchmarks/input.py --images FOLDER --workers 0,1,2 --out docs/results/input.json

Beside ours, in the same run and on the same files, what is installed of: torchvision with Pillow in
PyTorch's DataLoader, tf.data (pip install tensorflow-cpu), OpenCV. Cases take turns and medians are
printed. "Per core" divides by the processor seconds of this process and its workers, which a busy
machine does not change as much as the time on the wall.

Without --images it makes photographs of noise in the sizes that most of ImageNet's have.
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import io
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from automix_jax.data import pipeline
from automix_jax.data.images import decode_image
from automix_jax.data.records import Example
from automix_jax.data.transforms import TestTransform, TrainTransform

SIZE, TEST_RESIZE, BATCH = 224, 256, 64
RAND_AUGMENT = "rand-m9-mstd0.5-inc1"
SIZES = ((500, 375),) * 5 + ((500, 333),) * 3 + ((375, 500),) * 2 + ((640, 480), (333, 500))
EQUAL = {  # pixels against ours, on the same boxes
    "torchvision": "the same pixels",
    "tf.data": "its own resampling: antialiased bicubic in floats, decoding only the crop",
    "opencv": "bicubic without antialiasing",
}


@dataclasses.dataclass(frozen=True)
class Files:
    """Encoded images again and again, as records."""

    images: tuple[bytes, ...]
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        return Example(self.images[index % len(self.images)], 0, str(index))


@dataclasses.dataclass
class Case:
    """Something that goes through images: `open` starts it, `advance` takes some more."""

    name: str
    library: str
    open: Callable[[], contextlib.AbstractContextManager[Callable[[], int]]]


def read_images(folder: Path | None) -> tuple[bytes, ...]:
    """The JPEGs of a folder, or made ones."""
    if folder is not None:
        files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in (".jpg", ".jpeg"))
        if not files:
            raise SystemExit(f"--images {folder} has no JPEG files: give a folder of photographs.")
        return tuple(file.read_bytes() for file in files)
    rng = np.random.default_rng(0)
    images = []
    for width, height in SIZES:
        coarse = rng.integers(0, 256, (12, 16, 3), np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        noisy = np.asarray(smooth) + rng.normal(0, 12, (height, width, 3))
        buffer = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=88)
        images.append(buffer.getvalue())
    return tuple(images)


# -- one image after the other, in one thread ------------------------------------------------------


def each(images: tuple[bytes, ...], work: Callable[[bytes], Any]) -> Callable:
    """Opens a case that does something to one image after the other."""

    @contextlib.contextmanager
    def open_case() -> Iterator[Callable[[], int]]:
        endless = itertools.cycle(images)

        def advance() -> int:
            for image in itertools.islice(endless, BATCH):
                work(image)
            return BATCH

        yield advance

    return open_case


def our_stages(images: tuple[bytes, ...]) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    crop, augmented = TrainTransform(SIZE), TrainTransform(SIZE, rand_augment=RAND_AUGMENT)
    test = TestTransform(SIZE, TEST_RESIZE)
    yield Case("decode", "ours", each(images, lambda image: decode_image(image, "")))
    yield Case("crop", "ours", each(images, lambda image: crop(image, rng, "")))
    yield Case("rand_augment", "ours", each(images, lambda image: augmented(image, rng, "")))
    yield Case("test", "ours", each(images, lambda image: test(image, "")))


def torchvision_transforms() -> dict[str, Callable[[Image.Image], Any]]:
    """The same stages as PyTorch's users write them, from a decoded image to a uint8 tensor."""
    import torch
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode

    torch.set_num_threads(1)
    bicubic = InterpolationMode.BICUBIC
    crop = [transforms.RandomResizedCrop(SIZE, interpolation=bicubic)]
    crop += [transforms.RandomHorizontalFlip()]
    stages = {"decode": [], "crop": crop}
    stages["test"] = [transforms.Resize(TEST_RESIZE, bicubic), transforms.CenterCrop(SIZE)]
    if importlib.util.find_spec("timm"):
        from timm.data.auto_augment import rand_augment_transform

        options = {"translate_const": 100, "img_mean": (124, 116, 104), "interpolation": 3}
        stages["rand_augment"] = [*crop, rand_augment_transform(RAND_AUGMENT, options)]
    to_tensor = transforms.PILToTensor()
    return {name: transforms.Compose([*stage, to_tensor]) for name, stage in stages.items()}


def open_pil(image: bytes) -> Image.Image:
    return Image.open(io.BytesIO(image)).convert("RGB")


def torchvision_stages(images: tuple[bytes, ...]) -> Iterator[Case]:
    def work_of(stage: Callable) -> Callable[[bytes], Any]:
        return lambda image: stage(open_pil(image))

    for name, stage in torchvision_transforms().items():
        yield Case(name, "torchvision", each(images, work_of(stage)))


def opencv_stages(images: tuple[bytes, ...]) -> Iterator[Case]:
    import cv2

    cv2.setNumThreads(1)
    boxes = TrainTransform(SIZE)
    rng = np.random.default_rng(0)

    def decode(image: bytes) -> np.ndarray:
        return cv2.cvtColor(cv2.imdecode(np.frombuffer(image, np.uint8), 1), cv2.COLOR_BGR2RGB)

    def crop(image: bytes) -> np.ndarray:
        pixels = decode(image)
        left, top, right, bottom = draw_box(rng, pixels.shape[1], pixels.shape[0], boxes)
        cut = pixels[top:bottom, left:right]
        return cv2.resize(cut, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)

    yield Case("decode", "opencv", each(images, decode))
    yield Case("crop", "opencv", each(images, crop))


def draw_box(rng: np.random.Generator, width: int, height: int, transform: TrainTransform):
    """The box of a random resized crop, (left, top, right, bottom)."""
    from automix_jax.data.transforms.crop import random_resized_box

    return random_resized_box(rng, width, height, transform.scale, transform.ratio)


# -- whole pipelines -------------------------------------------------------------------------------


def our_pipeline(images: tuple[bytes, ...], workers: int, rand_augment: str) -> Case:
    @contextlib.contextmanager
    def open_case() -> Iterator[Callable[[], int]]:
        records = Files(images, max(len(images), BATCH))
        batches = pipeline.train_batches(
            records,
            TrainTransform(SIZE, rand_augment=rand_augment),
            pipeline.TrainOrder(0, BATCH, len(records)),
            seed=0,
            num_classes=1,
            batch_size=BATCH,
            steps=range(10**6),
            workers=workers,
        )
        with contextlib.closing(batches):
            yield lambda: len(next(batches).labels)

    return Case(pipeline_name(workers, rand_augment), "ours", open_case)


class TorchImages:
    """A map-style dataset for PyTorch."""

    def __init__(self, images: tuple[bytes, ...], stage: str):
        self.images, self.stage = images, stage
        self.transform: Callable | None = None

    def __len__(self) -> int:
        return 10**7

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if self.transform is None:
            self.transform = torchvision_transforms()[self.stage]
        return self.transform(open_pil(self.images[index % len(self.images)])), 0


def torch_pipeline(images: tuple[bytes, ...], workers: int, rand_augment: str) -> Case:
    @contextlib.contextmanager
    def open_case() -> Iterator[Callable[[], int]]:
        from torch.utils.data import DataLoader

        stage = "rand_augment" if rand_augment else "crop"
        loader = DataLoader(TorchImages(images, stage), BATCH, num_workers=workers)
        batches = iter(loader)
        try:
            yield lambda: len(next(batches)[1])
        finally:
            del batches

    return Case(pipeline_name(workers, rand_augment), "torchvision", open_case)


def tf_pipeline(images: tuple[bytes, ...], workers: int) -> Case:
    """tf.data with as many threads as ours has workers."""

    @contextlib.contextmanager
    def open_case() -> Iterator[Callable[[], int]]:
        import tensorflow as tf

        def cut(image):
            shape = tf.image.extract_jpeg_shape(image)
            start, size, _ = tf.image.sample_distorted_bounding_box(
                shape,
                bounding_boxes=tf.zeros((1, 0, 4)),
                min_object_covered=0.0,
                aspect_ratio_range=(3 / 4, 4 / 3),
                area_range=(0.08, 1.0),
                max_attempts=10,
                use_image_if_no_bounding_boxes=True,
            )
            window = tf.stack([start[0], start[1], size[0], size[1]])
            pixels = tf.io.decode_and_crop_jpeg(image, window, channels=3)
            resized = tf.image.resize(pixels, (SIZE, SIZE), "bicubic", antialias=True)
            pixels = tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)
            return tf.image.random_flip_left_right(pixels), 0

        dataset = tf.data.Dataset.from_tensor_slices(list(images)).repeat()
        dataset = dataset.map(cut, num_parallel_calls=max(workers, 1)).batch(BATCH).prefetch(2)
        options = tf.data.Options()
        options.threading.private_threadpool_size = max(workers, 1)
        batches = iter(dataset.with_options(options).as_numpy_iterator())
        yield lambda: len(next(batches)[1])

    return Case(pipeline_name(workers, ""), "tf.data", open_case)


def pipeline_name(workers: int, rand_augment: str) -> str:
    return f"pipeline{' with rand_augment' if rand_augment else ''}, {workers} workers"


# -- measuring -------------------------------------------------------------------------------------


def make_cases(images: tuple[bytes, ...], workers: list[int]) -> list[Case]:
    cases = list(our_stages(images))
    torchvision = importlib.util.find_spec("torchvision") is not None
    timm = importlib.util.find_spec("timm") is not None
    if torchvision:
        cases += torchvision_stages(images)
    if importlib.util.find_spec("cv2"):
        cases += opencv_stages(images)
    for count in workers:
        cases += [our_pipeline(images, count, how) for how in ("", RAND_AUGMENT)]
        if torchvision:
            hows = ("", RAND_AUGMENT) if timm else ("",)
            cases += [torch_pipeline(images, count, how) for how in hows]
        if importlib.util.find_spec("tensorflow"):
            cases.append(tf_pipeline(images, count))
    return cases


def cpu_seconds() -> float:
    """Processor time of this process and of its workers that live."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def measure(case: Case, seconds: float) -> tuple[float, float]:
    """Images per second, and per processor second, once the case has started."""
    with case.open() as advance:
        for _ in range(2):
            advance()  # workers have started, and what they prepared meanwhile is partly used
        count, start, cpu = 0, time.perf_counter(), cpu_seconds()
        while time.perf_counter() - start < seconds:
            count += advance()
        return count / (time.perf_counter() - start), count / (cpu_seconds() - cpu)


def describe(images: tuple[bytes, ...]) -> dict[str, Any]:
    sizes = [Image.open(io.BytesIO(image)).size for image in images]
    return {
        "images": len(images),
        "median_size": [statistics.median(side) for side in zip(*sizes, strict=True)],
        "mean_bytes": round(statistics.mean(map(len, images))),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("pillow", "grain", "torchvision", "timm", "tensorflow-cpu",
                         "opencv-python-headless")
            if has_version(name)
        },
    }  # fmt: skip


def has_version(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder of JPEG files, searched through")
    parser.add_argument("--workers", default="0,1,2", help="counts (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=4, help="a case (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)

    images = read_images(args.images)
    cases = make_cases(images, [int(count) for count in args.workers.split(",")])
    results: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for number in range(args.rounds):
        for case in cases:
            rates = measure(case, args.seconds)
            results.setdefault((case.name, case.library), []).append(rates)
            print(f"round {number + 1}: {case.name:40} {case.library:12} "
                  f"{rates[0]:7.1f}/s {rates[1]:7.1f}/s a core", file=sys.stderr)  # fmt: skip
    rows = [
        {
            "case": name,
            "library": library,
            "images_per_second": round(statistics.median(r[0] for r in rates), 1),
            "images_per_core_second": round(statistics.median(r[1] for r in rates), 1),
            "rounds": [[round(value, 1) for value in r] for r in rates],
        }
        for (name, library), rates in results.items()
    ]
    report = {**describe(images), "pixels": EQUAL, "results": rows}
    text = json.dumps(report, indent=2) + "\n"
    if args.out:
        args.out.write_text(text)
    print(f"{'case':40} {'library':12} {'images/s':>9} {'a core':>8}")
    for row in rows:
        print(f"{row['case']:40} {row['library']:12} {row['images_per_second']:9.1f} "
              f"{row['images_per_core_second']:8.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
