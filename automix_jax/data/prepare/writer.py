"""The form in which TFDS keeps a dataset: ArrayRecord shards of examples, and their metadata."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from automix_jax.data.images import describe_error
from automix_jax.data.prepare.manifest import Manifest, Shard, shard_path
from automix_jax.data.prepare.parts import Content, Item
from automix_jax.data.progress import Advance
from automix_jax.errors import DataError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

SHARD_BYTES = 256 * 2**20  # of records in a shard: the most that an interruption costs
BAD_RECORDS = "bad_records.jsonl"
INFO = "dataset_info.json"  # which TFDS writes last
# TFDS's default also says of how many shards a shard is one, which is not known before the end.
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}"
# Groups of one record for random access; images are compressed already.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_VERSION = "1.0.0"


def write_shards(
    out: Path, content: Content, manifest: Manifest, shard_bytes: int, advance: Advance
) -> None:
    """Writes the images of a dataset that no shard of the manifest holds yet.

    Images keep the order of their source, so that it is read once, from start to end; training
    shuffles them anyway, by a permutation of all. A shard gets its name when it is complete, and
    enters the manifest then.

    Args:
        out: folder of the shards.
        content: the dataset.
        manifest: of the folder; shards are added to it.
        shard_bytes: of records, after which a shard ends.
        advance: is told of the images.

    Raises:
        DataError: if the source is damaged or does not fit, or nothing can be written.
    """
    features = _features(content)
    writers: dict[str, _SplitWriter] = {}
    for stale in out.glob("*.tmp"):
        stale.unlink()
    try:
        for item in content.items():
            if item.split not in writers:
                writers[item.split] = _SplitWriter(out, item.split, features, manifest)
            writer = writers[item.split]
            writer.add(item)
            if writer.payload >= shard_bytes:
                writer.end_shard()
            advance(1)
        for writer in writers.values():
            writer.end_shard()
    finally:
        for writer in writers.values():
            writer.drop_shard()


class _SplitWriter:
    """Cuts the images of one split into shards.

    Attributes:
        payload: bytes of records in the shard that has been begun.
    """

    def __init__(
        self, out: Path, split: str, features: tfds.features.FeaturesDict, manifest: Manifest
    ):
        self._out, self._split, self._manifest = out, split, manifest
        self._serialize = _serializer(features)
        self._shards = manifest.shards.setdefault(split, [])
        self._seen = 0  # images
        self._complete = sum(shard.records for shard in self._shards)  # images in complete shards
        self._writer: Any = None  # of the shard that has been begun
        self._bad: list[tuple[int, str, str]] = []  # in it
        self.payload = 0

    def add(self, item: Item) -> None:
        """Writes an image, unless a complete shard holds it."""
        index = self._seen
        self._seen += 1
        if index < self._complete:
            return
        data = item.read()
        # A name need not be text, in an archive.
        filename = item.filename.encode("utf-8", "backslashreplace").decode()
        if reason := _fault(data):
            self._bad.append((index, f"{self._split}/{index} {filename}", reason))
        example = {"image": data, "label": item.label, "filename": filename}
        if item.box is not None:
            example["bbox"] = np.array(item.box, np.float32)  # [4]
        record = self._serialize(example)
        with _writing(self._temporary):
            if self._writer is None:
                self._writer = _open_writer(self._temporary)
            self._writer.write(record)
        self.payload += len(record)

    def end_shard(self) -> None:
        """Completes the shard that has been begun, if one has."""
        if self._writer is None:
            return
        records = self._seen - self._complete
        with _writing(self._temporary):
            self._close()
            _check(self._temporary, records)
            size = self._temporary.stat().st_size
            self._temporary.replace(self._path)
        self._shards.append(Shard(records, size, self.payload, tuple(self._bad)))
        self._complete, self._bad, self.payload = self._seen, [], 0
        with _writing(self._out):
            self._manifest.save(self._out)

    def drop_shard(self) -> None:
        """Removes the shard that has been begun, if one has."""
        if self._writer is not None:
            with contextlib.suppress(Exception):  # the disk may be full
                self._close()
        self._temporary.unlink(missing_ok=True)

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        writer.close()

    @property
    def _path(self) -> Path:
        return shard_path(self._out, self._manifest.dataset, self._split, len(self._shards))

    @property
    def _temporary(self) -> Path:
        return self._path.with_name(f"{self._path.name}.tmp")


def _serializer(features: tfds.features.FeaturesDict) -> Callable[[dict[str, Any]], bytes]:
    """What makes a record of an example, the same bytes in every process.

    Features are a map, whose order TFDS's own `serialize_example` leaves to the process.
    """
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    serializer = ExampleSerializer(features.get_serialized_info())

    def serialize(example: dict[str, Any]) -> bytes:
        proto = serializer.get_tf_example(features.encode_example(example))
        return proto.SerializeToString(deterministic=True)

    return serialize


def _open_writer(path: Path) -> Any:
    from array_record.python.array_record_module import ArrayRecordWriter

    return ArrayRecordWriter(str(path), _WRITER_OPTIONS)


def _check(path: Path, records: int) -> None:
    """Raises an OSError unless a shard holds what was written to it."""
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(path))
    found = reader.num_records()
    reader.close()
    if found != records:
        raise OSError(f"{found} of {records} records are there")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns what a full disk raises into a DataError."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"cannot write {path} ({error}); make room or mend its folder, then run the same "
            "command again: it goes on"
        ) from error


def _fault(data: bytes) -> str:
    """Why an image cannot be read, by its header; empty if nothing is wrong with that."""
    from PIL import Image

    if not data:
        return "empty"
    try:
        Image.open(io.BytesIO(data)).close()
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise a dozen types on a broken file.
        return describe_error(error)
    return ""


def _features(content: Content) -> tfds.features.FeaturesDict:
    """The features of an example."""
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=(None, None, 3), doc="the encoded file, unchanged"),
        "label": tfds.features.ClassLabel(names=list(content.class_names)),
        "filename": tfds.features.Text(),
    }
    if content.box_format is not None:
        # Numbers as published, in pixels: TFDS's usual shares of height and width would round them.
        features["bbox"] = tfds.features.BBoxFeature(bbox_format=content.box_format)
    return tfds.features.FeaturesDict(features)


def write_metadata(out: Path, content: Content, manifest: Manifest, title: str, page: str) -> None:
    """Makes a folder of complete shards a dataset of TFDS, and lists its unreadable images.

    Args:
        out: the folder.
        content: the dataset.
        manifest: of the folder.
        title: of the dataset.
        page: its home page.

    Raises:
        DataError: if nothing can be written.
    """
    import tensorflow_datasets as tfds

    with _writing(out):
        bad = [
            json.dumps({"split": split, "index": index, "name": name, "reason": reason})
            for split, shards in manifest.shards.items()
            for shard in shards
            for index, name, reason in shard.bad
        ]
        if bad:
            (out / BAD_RECORDS).write_text("\n".join(bad) + "\n")
        tfds.folder_dataset.write_metadata(
            data_dir=out,
            features=_features(content),
            split_infos=[
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[shard.records for shard in shards],
                    num_bytes=sum(shard.payload for shard in shards),
                    filename_template=tfds.core.ShardedFileTemplate(out, _TEMPLATE),
                )
                for split, shards in manifest.shards.items()
            ],
            version=_VERSION,
            filename_template=_TEMPLATE,
            check_data=False,  # needs TensorFlow
            description=f"{title}, as published.",
            homepage=page,
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )
