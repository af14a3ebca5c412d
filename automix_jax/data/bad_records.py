"""The list of images that could not be read, and how many a run puts up with."""

import json
from pathlib import Path
from typing import Any

from automix_jax.errors import DataError

BAD_SHARE = 0.001  # of the training images
_MIN_LIMIT = 10
_SHOWN = 3  # named in the error


def bad_limit(share: float, num_images: int) -> int:
    """How many unreadable training images a run replaces before it stops.

    Args:
        share: of the training images.
        num_images: N, how many there are.

    Returns:
        The share of N, but at least 10, and never all N; none if the share is 0.
    """
    if not share:
        return 0
    return min(max(_MIN_LIMIT, int(share * num_images)), num_images - 1)


def printable(name: str) -> str:
    """A name on one line: line ends, and bytes that are not UTF-8, are written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


class BadRecords:
    """A file with one line of JSON for each unreadable image.

    A run that is started again goes on with the file, so that no image is counted twice. For one
    process and one thread.
    """

    def __init__(self, path: Path, limit: int):
        """Reads what the file lists already.

        Args:
            path: of the file, which appears with its first line; its folder exists.
            limit: training images that may be bad.

        Raises:
            DataError: if the file is damaged, or lists more than `limit` already.
        """
        self.path = path
        self.limit = limit
        self._seen: set[tuple[str, int]] = set()
        self._training: list[str] = []  # what the error says of them
        for record in _read(path):
            self._count(**record)
        self._check()

    def __len__(self) -> int:
        """The number of images listed, of all splits."""
        return len(self._seen)

    def add(self, split: str, index: int, name: str, reason: str) -> None:
        """Lists an image, unless it is listed.

        Args:
            split: "train" or "test"; only training images count for the limit.
            index: of the image in its split.
            name: of the image; need not be UTF-8.
            reason: why it cannot be read.

        Raises:
            DataError: if more than `limit` distinct training images are bad now.
        """
        if (split, index) not in self._seen:
            record: dict[str, Any] = {
                "split": split,
                "index": index,
                "name": name,
                "reason": reason,
            }
            try:
                with self.path.open("a", encoding="ascii") as file:
                    file.write(json.dumps(record) + "\n")
            except OSError as error:
                raise DataError(
                    f"cannot write the list of unreadable images {self.path} ({error}); "
                    "make room or check its permissions"
                ) from error
            self._count(**record)
        self._check()

    def _count(self, split: str, index: int, name: str, reason: str) -> None:
        if split == "train" and (split, index) not in self._seen:
            self._training.append(f"{printable(name)}: {printable(reason)}")
        self._seen.add((split, index))

    def _check(self) -> None:
        if len(self._training) > self.limit:
            shown = "; ".join(self._training[:_SHOWN])
            raise DataError(
                f"{len(self._training)} training images cannot be read, more than the "
                f"{self.limit} that may be replaced (config.data.bad_share), such as {shown}; "
                f"mend or remove the images that {self.path} lists, then remove that list too"
            )


def _read(path: Path) -> list[dict[str, Any]]:
    """The lines of the file; a last one that was not written to its end is cut off."""
    try:
        data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            path.write_bytes(whole)
        records = [json.loads(line) for line in whole.splitlines()]
        fields = {"split": str, "index": int, "name": str, "reason": str}
        for record in records:
            if {key: type(value) for key, value in record.items()} != fields:
                raise ValueError(f"{record} is no bad record")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(
            f"cannot read the list of unreadable images {path} ({error}); move it away: "
            "a new one is begun"
        ) from error
    return records
