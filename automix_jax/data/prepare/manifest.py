"""What a folder that is being prepared remembers, so that the work can go on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from automix_jax.errors import DataError

NAME = "prepare.json"
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Shard:
    """A shard that is complete.

    Attributes:
        records: in it.
        bytes: of its file.
        payload: bytes of the records alone.
        bad: index in the split, name and reason of those whose image cannot be read.
    """

    records: int
    bytes: int
    payload: int
    bad: tuple[tuple[int, str, str], ...] = ()


@dataclasses.dataclass
class Manifest:
    """The state of a folder.

    Attributes:
        dataset: its name.
        source: fingerprints of the parts.
        checked: whether the checksums that were published have been compared, and are right.
        official: whether all of the source has been checked so.
        num_classes: K; 0 as long as it is not done.
        shards: those that are complete, by split, in order.
        done: whether the folder is complete.
    """

    dataset: str
    source: list[dict[str, str | int]]
    checked: bool = False
    official: bool = False
    num_classes: int = 0
    shards: dict[str, list[Shard]] = dataclasses.field(default_factory=dict)
    done: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """Images in the shards of each split."""
        return {
            split: sum(shard.records for shard in shards) for split, shards in self.shards.items()
        }

    def save(self, folder: Path) -> None:
        """Writes it; a reader sees the old one or the new one."""
        content = {"format": _FORMAT, **dataclasses.asdict(self)}
        temporary = folder / f"{NAME}.tmp"
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        temporary.replace(folder / NAME)


def shard_path(folder: Path, dataset: str, split: str, index: int) -> Path:
    """The file of a shard."""
    return folder / f"{dataset}-{split}.array_record-{index:05d}"


def lost_shard(folder: Path, manifest: Manifest) -> Path | None:
    """The first complete shard that is missing now, or has another size; None if all are there."""
    for split, shards in manifest.shards.items():
        for index, shard in enumerate(shards):
            path = shard_path(folder, manifest.dataset, split, index)
            if not path.is_file() or path.stat().st_size != shard.bytes:
                return path
    return None


def load(folder: Path) -> Manifest | None:
    """The manifest of a folder; None if it has none, or does not exist.

    Raises:
        DataError: if the manifest cannot be read.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        if content.pop("format") != _FORMAT:
            raise ValueError("another version wrote it")
        content["shards"] = {
            split: [Shard(**{**shard, "bad": tuple(map(tuple, shard["bad"]))}) for shard in shards]
            for split, shards in content["shards"].items()
        }
        return Manifest(**content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}: {error}); remove the folder {folder} "
            "and prepare it again"
        ) from error
