"""TensorFlow Datasets that were prepared as ArrayRecord, read without TensorFlow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from automix_jax.data.dataset import Dataset, Split, check_memory, check_same_shape, make_split
from automix_jax.data.images import decode_image, load_images
from automix_jax.errors import DataError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

_TEST_SPLITS = ("test", "validation", "val")


def load_tfds(name: str, path: str | None, image_size: int | None) -> Dataset:
    """Loads a prepared TFDS image classification dataset.

    Args:
        name: name of the dataset, with config and version if wanted: "NAME/CONFIG:1.2.3".
        path: its data_dir; None for TFDS's default (~/tensorflow_datasets or $TFDS_DATA_DIR).
        image_size: side of the squares to resize and crop to; None keeps the stored size, which
            must then be the same for all images.

    Returns:
        Images uint8 [N, H, W, C]; C is 1 if the image feature is gray, else 3.

    Raises:
        DataError: if the dataset is not prepared, not as ArrayRecord, or not images with labels.
    """
    builder = _prepared_builder(name, path)
    image_key, label_key = _supervised_keys(builder, name)
    class_names = tuple(builder.info.features[label_key].names)
    splits = builder.info.splits
    test_name = next((split for split in _TEST_SPLITS if split in splits), None)
    if "train" not in splits or test_name is None:
        raise DataError(
            f"tfds:{name} has the splits {', '.join(splits) or 'none'}; "
            'it needs "train" and "test" (or "validation")'
        )
    if image_size is not None:
        num_images = splits["train"].num_examples + splits[test_name].num_examples
        check_memory(num_images, (image_size, image_size, 3), f"tfds:{name}")

    def load(split: str) -> Split:
        return _load_split(builder, split, image_key, label_key, image_size)

    train, test = load("train"), load(test_name)
    check_same_shape(train, test, f"tfds:{name}")
    return Dataset(f"tfds:{name}", train, test, class_names)


def _prepared_builder(name: str, path: str | None) -> tfds.core.DatasetBuilder:
    """The dataset as it lies on disk; its generation code is neither needed nor run."""
    try:
        from tensorflow_datasets.core.read_only_builder import builder_from_files
        from tensorflow_datasets.core.utils.file_utils import list_data_dirs
    except ImportError as error:
        raise DataError(
            f"tfds:{name} needs a package that is missing ({error}); "
            "pip install tensorflow-datasets importlib_resources"
        ) from error
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
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    if "array_record" not in formats:
        raise DataError(
            f"tfds:{name} in {builder.data_dir} is stored as {' and '.join(sorted(formats))}, "
            f'which allows no random access; prepare it again with file_format="array_record" into '
            f"another data_dir, or remove it first: {command}"
        )
    return builder


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
            f'tfds:{name} has no Image and ClassLabel features "{keys[0]}" and "{keys[1]}"; '
            "choose an image classification dataset"
        )
    if image.np_dtype != np.uint8:
        raise DataError(f"tfds:{name} has {image.np_dtype} images; choose one with uint8 images")
    return keys[0], keys[1]


def _load_split(
    builder: tfds.core.DatasetBuilder,
    split: str,
    image_key: str,
    label_key: str,
    image_size: int | None,
) -> Split:
    import tensorflow_datasets as tfds

    # The stored bytes go through our own decoder: one look for all sources, no second library.
    decoders = {image_key: tfds.decode.SkipDecoding()}
    source = builder.as_data_source(split=split, decoders=decoders)
    features = builder.info.features
    channels = 1 if features[image_key].shape[-1] == 1 else 3
    labels = np.empty(len(source), np.int64)
    where = f"tfds:{builder.info.full_name}, {split} images"

    def decode(index: int) -> np.ndarray:
        example = source[index]
        labels[index] = example[label_key]
        return decode_image(example[image_key], f"{index} of {where}", image_size, channels)

    if not labels.size:
        raise DataError(f"{where} are empty; prepare the dataset again")
    images = load_images(decode, len(source), where)
    return make_split(images, labels, features[label_key].num_classes, where)
