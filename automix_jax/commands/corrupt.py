"""`automix data corrupt` and `automix data verify-c`: corrupted test sets."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from automix_jax.commands.base import Parser, check_least
from automix_jax.errors import ConfigError, DataError

_CORRUPT_HELP = """\
Corrupts the test images of a dataset in the 19 ways of CIFAR-10-C and CIFAR-100-C, each at five
severities, and writes them as these are laid out:

    automix data corrupt cifar100:/data/cifar100 --out=/data/cifar100-c
    automix evaluate runs/cifar100 --suite=corruptions --corruptions=/data/cifar100-c

The parameters are those of 32 x 32, 64 x 64 or 224 x 224 pixels, whichever is nearest. Where a set
is published, its own files are to be preferred: the random corruptions draw other numbers here.

The same command goes on where an interrupted one stopped, and does nothing where it is done.
"""
_VERIFY_HELP = """\
Compares a published set of arrays, such as CIFAR-10-C, with what we make of the same test images:

    automix data verify-c /data/CIFAR-10-C cifar10:/data/cifar10

Corruptions without chance must agree to one level of 255, JPEG compression on average; of the
others the mean and the deviation of |corrupted - clean| to 2 %. Chance alone moves these further
where the images are fewer than some thousand. The exit code is 64 where something differs.
"""


def corrupt_command(argv: Sequence[str]) -> int:
    """Runs `automix data corrupt`.

    Raises:
        AutoMixError: for arguments or data that cannot be used.
    """
    from automix_jax.data.progress import progress_bar
    from automix_jax.evaluate.corruptions import NAMES, SEVERITIES
    from automix_jax.evaluate.corruptions.base import in_order
    from automix_jax.evaluate.corruptions.generate import generate

    parser = Parser("data corrupt", _CORRUPT_HELP)
    add = parser.add_argument
    add("data", metavar="NAME[:PATH]", help="the dataset, as in config.data")
    add("--out", required=True, type=Path, metavar="DIR", help="folder to be made, or gone on with")
    add("--corruptions", metavar="A,B", help="some of them (default: all 19)")
    add("--severities", metavar="1,3", help="some of them (default: all five, as published)")
    add("--limit", type=int, metavar="N", help="the first N images (default: all)")
    add("--size", type=int, help="side of the squares to resize and crop to (default: as stored)")
    add("--seed", type=int, default=0, help="of the random ones (default: %(default)s)")
    add("--workers", type=int, metavar="N", help="processes; 0 for none (default: one a core)")
    arguments = parser.parse_args(argv)
    check_least(vars(arguments), limit=1, size=1, seed=0, workers=0)
    names = in_order(arguments.corruptions.split(",") if arguments.corruptions else NAMES)
    severities = _severities(arguments.severities) if arguments.severities else SEVERITIES
    images, labels = _read_test(arguments.data, arguments.limit, arguments.size)
    total = len(images) * len(names) * len(severities)
    start = time.perf_counter()
    with progress_bar("corrupting", total, "images") as advance:
        written = generate(
            images,
            labels,
            arguments.out,
            names=names,
            severities=severities,
            seed=arguments.seed,
            workers=arguments.workers,
            advance=advance,
        )
    seconds = time.perf_counter() - start
    print(f"{arguments.out}  {len(images):,} images, {len(names)} corruptions")
    if not written:
        print("it was complete already: nothing was written")
        return 0
    count = len(images) * len(severities) * len(written)
    print(f"{count:,} images corrupted in {seconds:.0f} s, {count / seconds:,.0f} a second")
    return 0


def verify_command(argv: Sequence[str]) -> int:
    """Runs `automix data verify-c`; returns 64 where something differs.

    Raises:
        AutoMixError: for arguments or data that cannot be used.
    """
    from automix_jax.data.progress import progress_bar
    from automix_jax.evaluate.corruptions.arrays import ArraySet
    from automix_jax.evaluate.corruptions.files import open_corrupted
    from automix_jax.evaluate.corruptions.verify import table, verify

    parser = Parser("data verify-c", _VERIFY_HELP)
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="the published set")
    add("data", metavar="NAME[:PATH]", help="the dataset, as in config.data")
    add("--corruptions", metavar="A,B", help="some of them (default: all 19)")
    add("--limit", type=int, metavar="N", help="the first N images (default: all)")
    add("--seed", type=int, default=0, help="of our random ones (default: %(default)s)")
    add("--workers", type=int, metavar="N", help="processes; 0 for none (default: one a core)")
    arguments = parser.parse_args(argv)
    check_least(vars(arguments), limit=1, seed=0, workers=0)
    images, labels = _read_test(arguments.data, arguments.limit)
    published = open_corrupted(
        arguments.folder,
        (),
        images.shape[1:],
        labels,
        chosen=np.arange(len(images)) if arguments.limit else None,
        names=arguments.corruptions.split(",") if arguments.corruptions else None,
    )
    if not isinstance(published, ArraySet):
        raise DataError(f"{arguments.folder} holds no arrays, which alone can be compared.")
    total = len(published.rows) * len(published.names) * len(published.severities)
    with progress_bar("comparing", total, "images") as advance:
        found = list(
            verify(
                published,
                images,
                seed=arguments.seed,
                workers=arguments.workers,
                advance=advance,
            )
        )
    print(table(found))
    differ = list(dict.fromkeys(each.name for each in found if not each.agrees))
    if differ:
        print(f"{len(differ)} of {len(published.names)} corruptions differ: {', '.join(differ)}")
        return DataError.exit_code
    print(f"all {len(published.names)} corruptions agree")
    return 0


def _severities(text: str) -> tuple[int, ...]:
    """The severities of a list with commas, ascending."""
    from automix_jax.evaluate.corruptions import SEVERITIES

    known = {str(severity): severity for severity in SEVERITIES}
    asked = text.split(",")
    for each in asked:
        if each not in known:
            raise ConfigError(f"--severities has {each!r}: use some of {','.join(known)}.")
    return tuple(sorted({known[each] for each in asked}))


def _read_test(
    data: str, limit: int | None, size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The first test images of a dataset, uint8 [N, H, W, C], and their labels, int64 [N].

    Raises:
        DataError: if they cannot be read, or are of several sizes.
    """
    from automix_jax.data import open_dataset
    from automix_jax.data.dataset import check_labels
    from automix_jax.data.images import decode_image, load_images
    from automix_jax.report.pictures import parse_source

    name, path = parse_source(data)
    dataset = open_dataset(name, path or None)
    count = min(limit or len(dataset.test), len(dataset.test))
    labels = np.empty(count, np.int64)
    shapes = set()

    def decode(index: int) -> np.ndarray:
        example = dataset.test[index]
        labels[index] = example.label
        image = decode_image(example.image, example.name, size, dataset.channels)
        shapes.add(image.shape)
        if len(shapes) > 1:
            raise DataError(f"the images of {data} have several sizes: give --size, such as 224.")
        return image

    images = load_images(decode, count, f"{dataset.name}, test images")
    check_labels(labels, len(dataset.class_names), f"{dataset.name}, test images")
    return images, labels
