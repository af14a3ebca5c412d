"""The list of images that could not be read, and how many a run puts up with."""

import json
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from automix_jax.data.pipeline import Shard
from automix_jax.errors import DataError

BAD_SHARE = 0.001  # of the training images
_MIN_LIMIT = 10
_ALONE = Shard()


def bad_limit(share: float, num_images: int) -> int:
    """How many unreadable images of a split a run puts up with before it stops.

    Args:
        share: of the images.
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

    A run that is started again goes on with the file, so that no image is counted twice.

    Of several processes each reads the file when it begins and remembers what it finds; the first
    writes. From time to time all exchange their news (`take_news`, `extend`), and only then the
    limit is looked at, so that all stop or none.
    """

    def __init__(self, path: Path, limits: Mapping[str, int], shard: Shard = _ALONE):
        """Reads what the file lists already.

        Args:
            path: of the file, which appears with its first line; its folder exists.
            limits: images that may be bad, by split: "train" and "test".
            shard: which of the processes that share the list this is.

        Raises:
            DataError: if the file is damaged, or lists more than allowed already.
        """
        self.path = path
        self.limits = limits
        self._shard = shard
        self._lock = threading.Lock()  # a thread reads ahead while another asks
        self._news: list[dict[str, Any]] = []
        self._seen: set[tuple[str, int]] = set()
        self._first: dict[str, str] = {}  # of each split, for the error
        for record in _read(path, mend=shard.index == 0):
            self._count(**record)
        self._check()

    @property
    def counts(self) -> Counter[str]:
        """How many images of each split are listed."""
        with self._lock:
            return Counter(split for split, _ in self._seen)

    def __len__(self) -> int:
        """The number of images listed, of all splits."""
        return len(self._seen)

    def add(self, split: str, index: int, name: str, reason: str) -> None:
        """Lists an image, unless it is listed.

        Args:
            split: "train" or "test".
            index: of the image in its split.
            name: of the image; need not be UTF-8.
            reason: why it cannot be read.

        Raises:
            DataError: if more distinct images of a split are bad now than allowed, and the process
                is alone.
        """
        record = {"split": split, "index": index, "name": name, "reason": reason}
        with self._lock:
            if self._list(record):
                self._news.append(record)
        if self._shard.count == 1:
            self._check()

    def take_news(self) -> list[dict[str, Any]]:
        """What this process has added since it was asked last."""
        with self._lock:
            news, self._news = self._news, []
        return news

    def extend(self, records: Iterable[dict[str, Any]]) -> None:
        """Lists the news of all processes.

        Raises:
            DataError: if more distinct images of a split are bad now than allowed.
        """
        with self._lock:
            for record in records:
                self._list(record)
        self._check()

    def _list(self, record: dict[str, Any]) -> bool:
        """Counts and writes a record; returns whether it is new."""
        if (record["split"], record["index"]) in self._seen:
            return False
        if self._shard.index == 0:
            try:
                with self.path.open("a", encoding="ascii") as file:
                    file.write(json.dumps(record) + "\n")
            except OSError as error:
                raise DataError(
                    f"cannot write the list of unreadable images {self.path} ({error}); "
                    "make room or check its permissions"
                ) from error
        self._count(**record)
        return True

    def _count(self, split: str, index: int, name: str, reason: str) -> None:
        del reason
        self._seen.add((split, index))
        self._first.setdefault(split, printable(name))

    def _check(self) -> None:
        for split, count in self.counts.items():
            if count > self.limits[split]:
                raise DataError(
                    f"{count} {'training' if split == 'train' else 'test'} images or more cannot be"
                    f" read, such as {self._first[split]}, and config.data.bad_share allows for"
                    f" {self.limits[split]}: mend or remove those that {self.path} lists, and the"
                    " list itself (`automix data check PATH --deep` finds all)"
                )


def _read(path: Path, *, mend: bool) -> list[dict[str, Any]]:
    """The lines of the file; a last one that was not written to its end is left out, or cut off."""
    try:
        data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if mend and whole != data:
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
