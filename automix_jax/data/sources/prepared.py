"""TensorFlow Datasets that were prepared as ArrayRecord, read without TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from automix_jax.data.images import reading, system_error
from automix_jax.data.prepare import manifest
from automix_jax.data.records import Example, RecordDataset
from automix_jax.errors import DataError, ImageError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

_TEST_SPLITS = ("test", "validation", "val")
_NAME_KEYS = ("filename", "file_name")  # of a feature that says how an image was called
_AGAIN = "prepare the dataset again"


def open_tfds(name: str, path: str | None) -> RecordDataset:
    """Opens a prepared TFDS image classification dataset, to be read one example at a time.

    Args:
        name: name of the dataset, with config and version if wanted: "NAME/CONFIG:1.2.3".
        path: its data_dir; None for TFDS's default (~/tensorflow_datasets or $TFDS_DATA_DIR).

    Returns:
        Encoded images. The test split is "test", or "validation" where there is no such split or
        its labels are kept secret.

    Raises:
        DataError: if the dataset is not prepared, not as ArrayRecord, or not images with labels.
    """
    return _open(_prepared_builder(name, path), f"tfds:{name}")


def open_prepared(directory: str | Path) -> RecordDataset:
    """Opens a folder that `automix data prepare` or TFDS wrote.

    Args:
        directory: the folder, in which dataset_info.json lies; "~" is expanded.

    Returns:
        As `open_tfds`.

    Raises:
        DataError: if it is no such folder or not complete, or not images with labels.
    """
    directory = Path(directory).expanduser().absolute()
    where = f"{directory} (config.data.path)"
    if not (directory / "dataset_info.json").is_file():
        remedy = (
            "its preparation was interrupted: run the same automix data prepare again"
            if (directory / manifest.NAME).is_file()
            else "give the folder that automix data prepare wrote"
        )
        raise DataError(f"{where} has no dataset_info.json; {remedy}")
    if (state := manifest.load(directory)) and (shard := manifest.lost_shard(directory, state)):
        raise DataError(
            f"{shard} is missing or was changed since it was written; copy the folder again from "
            "where it was prepared, or prepare it again"
        )
    with _needed(where):
        import tensorflow_datasets as tfds
    try:
        builder = tfds.builder_from_directory(directory)
    except Exception as error:  # whatever its parsers run into
        raise DataError(
            f"{where} cannot be read as a dataset of TFDS ({type(error).__name__}: {error}); "
            "prepare it again"
        ) from error
    _check_format(builder, where, 'prepare it again with file_format="array_record"')
    return _open(builder, builder.name)


@dataclasses.dataclass(frozen=True)
class TfdsRecords:
    """The examples of a split of a prepared dataset.

    Attributes:
        source: TFDS's, which opens its files when it is read and can be pickled.
        split: its name.
        image_key, label_key: of the features.
        name_key: of the feature that says how an image was called; None if there is none.
    """

    source: Any
    split: str
    image_key: str
    label_key: str
    name_key: str | None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        """Example `index`.

        Raises:
            ImageError: if its record is damaged.
            DataError: if its shard cannot be opened or read.
        """
        name, what = self._called(index)
        with reading(what, _AGAIN):
            example = self._record(index, what)
            if example[self.image_key] is None:  # what is left of a file that was cut off
                raise EOFError("an empty record")
            if self.name_key is not None:
                name = f"{name} {example[self.name_key].decode('utf-8', 'backslashreplace')}"
            return Example(example[self.image_key], int(example[self.label_key]), name)

    def features(self, index: int) -> dict[str, Any]:
        """All that the record of example `index` holds, its image encoded.

        Raises:
            ImageError, DataError: as above.
        """
        _, what = self._called(index)
        with reading(what, _AGAIN):  # ArrayRecord, protobuf and TFDS raise types of their own
            return self._record(index, what)

    def _called(self, index: int) -> tuple[str, str]:
        """What an example is called, and what it is in an error."""
        name = f"{self.split}/{index}"
        return name, f"{name} of {self.source.dataset_info.data_dir}"

    def _record(self, index: int, what: str) -> dict[str, Any]:
        try:
            return self.source[index]
        except RuntimeError as error:
            # So ArrayRecord tells of a call that the system refused, not of its data.
            if re.match(r"\w+\(\) failed", str(error)):
                raise system_error(what, error) from error
            raise


def _open(builder: tfds.core.DatasetBuilder, name: str) -> RecordDataset:
    image_key, label_key = _supervised_keys(builder, name)
    splits = builder.info.splits
    test_splits = [split for split in _TEST_SPLITS if split in splits]
    if "train" not in splits or not test_splits:
        raise DataError(
            f"{name} has the splits {', '.join(splits) or 'none'}; "
            'it needs "train" and "test" (or "validation")'
        )

    def records(split: str) -> TfdsRecords:
        return _records(builder, split, image_key, label_key, name)

    tests = [records(split) for split in test_splits]
    features = builder.info.features
    return RecordDataset(
        name,
        records("train"),
        # Where labels are kept secret, TFDS says -1.
        next((test for test in tests if _first_label(test) >= 0), tests[0]),
        tuple(features[label_key].names),
        channels=1 if features[image_key].shape[-1] == 1 else 3,
    )


def _first_label(records: TfdsRecords) -> int:
    """The label of the first example that can be read; -1 if there is none."""
    for index in range(len(records)):
        with contextlib.suppress(ImageError):
            return records[index].label
    return -1


def _records(
    builder: tfds.core.DatasetBuilder, split: str, image_key: str, label_key: str, name: str
) -> TfdsRecords:
    import tensorflow_datasets as tfds

    if not builder.info.splits[split].num_examples:
        raise DataError(f"{name}, {split} images are empty; prepare the dataset again")
    # The stored bytes go through our own decoder: one look for all sources, no second library.
    source = builder.as_data_source(split=split, decoders={image_key: tfds.decode.SkipDecoding()})
    features = dict(builder.info.features.items())
    names = (key for key in _NAME_KEYS if isinstance(features.get(key), tfds.features.Text))
    return TfdsRecords(source, split, image_key, label_key, next(names, None))


def _prepared_builder(name: str, path: str | None) -> tfds.core.DatasetBuilder:
    """The dataset as it lies on disk; its generation code is neither needed nor run."""
    with _needed(f"tfds:{name}"):
        from tensorflow_datasets.core.read_only_builder import builder_from_files
        from tensorflow_datasets.core.utils.file_utils import list_data_dirs
    keywords = {"data_dir": path} if path else {}
    argument = f', data_dir="{path}"' if path else ""
    command = (
        f"python -c 'import tensorflow_datasets as tfds; "
        f'tfds.builder("{name}"{argument}, file_format="array_record").download_and_prepare()\''
    )
    try:
        builder = builder_from_files(name, **keywords)
    except (ValueError, OSError, AssertionError) as error:
        looked = ", ".join(str(folder) for folder in list_data_dirs(path))
        raise DataError(
            f"tfds:{name} is not prepared in {looked} (config.data.path); prepare it with {command}"
            " (TFDS may ask for tensorflow to prepare it; reading needs none)"
        ) from error
    _check_format(
        builder,
        f"tfds:{name} in {builder.data_dir}",
        'prepare it again with file_format="array_record" into another data_dir, or remove it '
        f"first: {command}",
    )
    return builder


@contextlib.contextmanager
def _needed(where: str) -> Iterator[None]:
    """Turns the absence of a package into a DataError."""
    try:
        yield
    except ImportError as error:
        raise DataError(
            f"{where} needs a package that is missing ({error}); "
            "pip install tensorflow-datasets importlib_resources"
        ) from error


def _check_format(builder: tfds.core.DatasetBuilder, where: str, remedy: str) -> None:
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    if "array_record" not in formats:
        raise DataError(
            f"{where} is stored as {' and '.join(sorted(formats))}, which allows no random access; "
            f"{remedy}"
        )


def _supervised_keys(builder: tfds.core.DatasetBuilder, name: str) -> tuple[str, str]:
    """The names of the image and the label feature."""
    import tensorflow_datasets as tfds

    keys = (builder.info.supervised_keys or ("image", "label"))[:2]
    features: Any = getattr(
        builder.info.features, "items", dict
    )()  # A dataset may be one bare feature.
    image, label = (dict(features).get(key) for key in keys)
    if not isinstance(image, tfds.features.Image) or not isinstance(
        label, tfds.features.ClassLabel
    ):
        raise DataError(
            f'{name} has no Image and ClassLabel features "{keys[0]}" and "{keys[1]}"; '
            "choose an image classification dataset"
        )
    if image.np_dtype != np.uint8:
        raise DataError(f"{name} has {image.np_dtype} images; choose one with uint8 images")
    return keys[0], keys[1]
