"""CIFAR-10 and CIFAR-100: their pixels as PNG images, in the order of the files."""

import io
from collections.abc import Iterator

from automix_jax.data.dataset import Dataset
from automix_jax.data.prepare.parts import Content, Item, Part, holds
from automix_jax.data.prepare.preparer import Places, Preparer
from automix_jax.data.sources.cifar import PAGE, load_cifar


def _part(archive: str, size: int, md5: str, folder: str, meta: str) -> tuple[Part]:
    return (Part(archive, size, md5, folders=(folder, "."), fits=holds(meta)),)


def _preparer(name: str, title: str, num_classes: int, *downloads: tuple[Part]) -> Preparer:
    def content(places: Places) -> Content:
        (place,) = places.values()
        dataset = load_cifar(name, str(place.path))
        return Content(dataset.class_names, lambda: _items(dataset))

    counts = {"train": 50_000, "test": 10_000}
    return Preparer(name, title, PAGE, num_classes, counts, downloads, content)


def _items(dataset: Dataset) -> Iterator[Item]:
    from PIL import Image

    for name, split in (("train", dataset.train), ("test", dataset.test)):
        for index, (pixels, label) in enumerate(zip(split.images, split.labels, strict=True)):

            def read(pixels=pixels) -> bytes:  # uint8 [32, 32, 3]
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "PNG")
                return file.getvalue()

            yield Item(name, f"{index:05d}.png", int(label), read)


# Checksums: the official page.
PREPARERS = (
    _preparer(
        "cifar10",
        "CIFAR-10",
        10,
        _part(
            "cifar-10-python.tar.gz",
            170_498_071,
            "c58f30108f718f92721af3b95e74349a",
            "cifar-10-batches-py",
            "batches.meta",
        ),
        _part(
            "cifar-10-binary.tar.gz",
            170_052_171,
            "c32a1d4ab5d03f1284b67883e8d87530",
            "cifar-10-batches-bin",
            "batches.meta.txt",
        ),
    ),
    _preparer(
        "cifar100",
        "CIFAR-100",
        100,
        _part(
            "cifar-100-python.tar.gz",
            169_001_437,
            "eb9058c3a382ffc7106e4002c42a8d85",
            "cifar-100-python",
            "meta",
        ),
        _part(
            "cifar-100-binary.tar.gz",
            168_513_733,
            "03b5dce01913d631647c71ecec9e9cb8",
            "cifar-100-binary",
            "fine_label_names.txt",
        ),
    ),
)
