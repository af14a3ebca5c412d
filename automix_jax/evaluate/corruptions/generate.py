"""Corrupted test images written as files of the published layout."""

import contextlib
import hashlib
import importlib.metadata
import io
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from automix_jax.data.prepare import alone
from automix_jax.data.progress import Advance
from automix_jax.errors import DataError
from automix_jax.evaluate.corruptions import DETERMINISTIC, NAMES, SEVERITIES
from automix_jax.evaluate.corruptions.arrays import LABELS, MANIFEST, Manifest, load_manifest
from automix_jax.evaluate.corruptions.base import in_order
from automix_jax.evaluate.corruptions.parallel import Corruptor, check, chunks
from automix_jax.weights.folder import sha256

GENERATOR = 1  # to be raised where the same images come out as others
_LIBRARIES = ("numpy", "scipy", "pillow", "opencv-python-headless", "opencv-python")
_PUBLISHED = (32, 32, 3)  # of CIFAR-10-C and CIFAR-100-C, whose clean images everyone has


def generate(
    images: np.ndarray,
    labels: np.ndarray,
    out: str | Path,
    *,
    names: Sequence[str] = NAMES,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    workers: int | None = None,
    advance: Advance = lambda count: None,
) -> list[str]:
    """Writes corrupted images as CIFAR-10-C has them, and goes on where it was interrupted.

    A file NAME.npy of each corruption, uint8 [S N, H, W, C], holds all images at the first
    severity, then all at the next; labels.npy repeats the labels as often. With all five severities
    this is the published layout, which other programs read too. manifest.json says what was made,
    from what and by which versions.

    Files appear whole. Those that are there with the right SHA-256 are not made again; files of
    other corruptions stay.

    Args:
        images: uint8 [N, H, W, C].
        labels: int [N].
        out: the folder; made if need be. Must be empty, or hold what an earlier call began from the
            same images, with the same seed and severities.
        names: the corruptions.
        severities: ascending.
        seed: of the random ones.
        workers: see `Corruptor`; no pixel depends on it.
        advance: is told of so many more corrupted images, those of earlier calls too.

    Returns:
        The names of the files that were written.

    Raises:
        ConfigError: for a corruption that is not known or cannot work, or other images.
        DataError: if the folder holds something else or cannot be written, or a process dies.
    """
    out, names = Path(out).expanduser().absolute(), in_order(names)
    check(images, names)
    new = Manifest(GENERATOR, seed, list(severities), list(images.shape), _hash(images, labels))
    with alone(out):
        manifest = load_manifest(out) or _begin(new, out)
        _check_same(manifest, new, out)
        manifest.corruptions = list(in_order([*manifest.corruptions, *names]))
        try:
            manifest.save(out)
            return _write_missing(out, manifest, images, labels, names, workers, advance)
        except OSError as error:
            raise DataError(
                f"{out} (--out) cannot be written ({error.strerror or error}): make room or choose"
                " another folder, and run the same command again."
            ) from error


def _begin(new: Manifest, out: Path) -> Manifest:
    """The manifest of a folder that is empty. Raises a DataError if it is not."""
    if any(not path.name.startswith(".") for path in out.iterdir()):
        raise DataError(f"{out} (--out) holds something else, without {MANIFEST}: choose another.")
    return new


def _check_same(old: Manifest, new: Manifest, out: Path) -> None:
    """Raises a DataError if a folder was begun otherwise."""
    for field, what in {
        "generator": "of the version {} of the generator",
        "seed": "of the seed {}",
        "severities": "of the severities {}",
        "shape": "of images of the shape {}",
        "source": "of the images with the checksum {:.8}",
    }.items():
        before, now = getattr(old, field), getattr(new, field)
        if before != now:
            before, now = (_text(value) for value in (before, now))
            raise DataError(
                f"{out} (--out) holds corruptions {what.format(before)}, not {now:.20}: choose"
                " another folder, or remove this one."
            )


def _text(value: int | str | list[int]) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _hash(images: np.ndarray, labels: np.ndarray) -> str:
    """The SHA-256 of images and labels."""
    digest = hashlib.sha256(images.reshape(-1).data)  # a copy where they do not lie together
    digest.update(labels.astype("<i8").data)
    return digest.hexdigest()


def _write_missing(
    out: Path,
    manifest: Manifest,
    images: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    workers: int | None,
    advance: Advance,
) -> list[str]:
    """Writes the files that are not there, or not as they were written; returns their names."""
    severities, seed = manifest.severities, manifest.seed
    if not _is_complete(out, LABELS, manifest):
        _write(out, LABELS, manifest, np.int64, (), [np.tile(labels, len(severities))])
    missing = [name for name in names if not _is_complete(out, f"{name}.npy", manifest)]
    advance(len(images) * len(severities) * (len(names) - len(missing)))
    if not missing:
        return []
    with Corruptor(workers) as corrupt:

        def make(name: str) -> Iterator[np.ndarray]:
            for severity in severities:
                parts = chunks(0, len(images))
                for part in corrupt(images, name, severity, seed=seed, parts=parts):
                    yield part
                    advance(len(part))

        for name in missing:
            _write(out, f"{name}.npy", manifest, np.uint8, images.shape[1:], make(name))
    return [f"{name}.npy" for name in missing]


def _is_complete(out: Path, file: str, manifest: Manifest) -> bool:
    """Whether a file is there as it was written."""
    path = out / file
    return (
        file in manifest.files and path.is_file() and sha256(path) == manifest.files[file]["sha256"]
    )


def _write(
    out: Path,
    file: str,
    manifest: Manifest,
    dtype: type[np.generic],
    shape: tuple[int, ...],
    parts: Iterable[np.ndarray],
) -> None:
    """Writes one array, which appears whole, and then says so in the manifest.

    Args:
        out: the folder.
        file: NAME.npy.
        manifest: of the folder.
        dtype: of the array.
        shape: of its elements, which are images or labels at each severity.
        parts: [n, *shape] each, in their order.
    """
    path, temporary = out / file, out / f".{file}.tmp"
    length = manifest.shape[0] * len(manifest.severities)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head,
        {
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            "fortran_order": False,
            "shape": (length, *shape),
        },
    )
    blocks = (part.astype(dtype, copy=False).tobytes() for part in parts)
    digest = hashlib.sha256()
    try:
        with temporary.open("wb") as stream:
            for block in itertools.chain([head.getvalue()], blocks):
                stream.write(block)
                digest.update(block)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    deterministic = path.stem in DETERMINISTIC and shape == _PUBLISHED
    manifest.files[file] = {
        "sha256": digest.hexdigest(),
        "comparable_to_published": deterministic or file == LABELS,
        "libraries": _libraries(),
    }
    manifest.save(out)


def _libraries() -> dict[str, str]:
    """The versions of those libraries that are there."""
    found = {}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
