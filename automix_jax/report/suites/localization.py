"""How well the network's score maps box the object (the paper's section 4.4, Table 6)."""

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from automix_jax.data import open_dataset
from automix_jax.data.hold_out import Selection
from automix_jax.data.order import data_order
from automix_jax.data.progress import progress_bar
from automix_jax.data.records import Records
from automix_jax.data.sources import is_prepared
from automix_jax.errors import ConfigError
from automix_jax.evaluate.cam import default_layer, default_method, make_cam, spatial_layers
from automix_jax.evaluate.localization.annotations import ImageBoxes, read_boxes
from automix_jax.evaluate.localization.images import localization_images
from automix_jax.evaluate.localization.matching import fit_boxes, match_boxes
from automix_jax.evaluate.localization.metric import OVERLAPS, SHARES, LocalizationScore
from automix_jax.evaluate.localization.resize import normalize_maps, upsample_cubic
from automix_jax.report import localization_pictures
from automix_jax.report.charts import BLUE, GREEN, ORANGE, make_figure, save_figure
from automix_jax.report.localization_pictures import Localized
from automix_jax.report.suites.base import Options, Subject, Suite
from automix_jax.train import workdir as workdir_lib

_SHOWN = 8  # images with boxes and maps
_BESIDE = {  # where the boxes of a dataset lie, as it is extracted; prepared, in its records
    "tiny_imagenet": "val/val_annotations.txt",
    "cub200": "bounding_boxes.txt",
}


def find_boxes(workdir: Path) -> Path | None:
    """The boxes beside the images that a run was trained on; None where there are none.

    Raises:
        CheckpointError: if the folder is not that of a run.
    """
    config, _ = workdir_lib.read(workdir)
    return boxes_beside(config.data)


def boxes_beside(data: ConfigDict) -> Path | None:
    """The boxes beside the images of `config.data`, or in their records; None without any."""
    file = _BESIDE.get(data.name)
    root = Path(data.path).expanduser()
    if file is None or not data.path or not (is_prepared(root) or (root / file).is_file()):
        return None
    return root


def measure(
    subject: Subject, options: Options, batch_size: int, stem: Path
) -> tuple[dict[str, Any], list[Path]]:
    """MaxBoxAcc, MaxBoxAccV2 and top-1 localisation of the true class's maps, and a centred box's.

    The images are squeezed to the square that the network reads, so that no box is cut.
    """
    method = options.cam or default_method(subject.network)
    find_map = make_cam(subject.network, method)
    records, boxes = _boxed(subject, options)
    size, channels = subject.images.shape[1], subject.images.shape[3]
    score, shown = LocalizationScore(size), _shown(len(records))
    examples: list[Localized] = []
    stream = zip(localization_images(records, size, channels), boxes, strict=True)
    with progress_bar("localising", len(records), "images") as advance:
        for start in range(0, len(records), batch_size):
            part = list(itertools.islice(stream, batch_size))
            images = np.stack([image.pixels for image, _ in part])
            labels = np.array([image.label for image, _ in part])
            truth = [fit_boxes(found, image.size, size) for image, found in part]
            maps = _padded(find_map, images, labels, batch_size)
            seen = subject.predict(images, batch_size).argmax(-1)
            score.add(maps, truth, seen == labels)
            for i in sorted(shown & set(range(start, start + len(part)))):
                k = i - start
                scores = normalize_maps(upsample_cubic(maps[k : k + 1], size, size))[0]
                name = subject.class_names[labels[k]]
                examples.append(Localized(images[k], scores, truth[k], name))
            advance(len(part))
    numbers = score.result() | {"method": method, "boxes": str(options.boxes)}
    pictures = _draw_curves(score, numbers, stem)
    share = numbers["largest_contour"][OVERLAPS.index(0.5)]["threshold"]
    page = stem.with_name(f"{stem.name}_boxes.png")
    localization_pictures.draw(page, examples, share)
    return numbers, [*pictures, page]


def _boxed(subject: Subject, options: Options) -> tuple[Records, Sequence[ImageBoxes]]:
    """The test images that a subject is judged by; see `boxed`.

    Raises:
        ConfigError, DataError: as there; ConfigError also if no boxes are given.
    """
    data = subject.trained.config.data
    if options.boxes is None:
        raise ConfigError(
            f"the suite localization needs the boxes of the test images, and none lie beside those"
            f" of {data.name}: give --boxes, or leave it out of --suite."
        )
    return boxed(data, options.boxes, subject.chosen)


def boxed(
    data: ConfigDict, boxes: Path, chosen: np.ndarray | None = None
) -> tuple[Records, Sequence[ImageBoxes]]:
    """The test images as they are stored, and the boxes of each.

    Args:
        data: `config.data` of the images.
        boxes: where their boxes are, see `read_boxes`.
        chosen: the numbers of some of the images; by default they are all.

    Raises:
        DataError: if images or boxes cannot be read, or an image has none.
    """
    records: Records = open_dataset(data.name, data.path or None).test
    if chosen is not None:
        records = Selection(records, chosen)
    names = [records[i].name for i in range(len(records))]
    return records, match_boxes(read_boxes(boxes), names, str(boxes))


def _padded(find_map: Any, images: np.ndarray, labels: np.ndarray, size: int) -> np.ndarray:
    """The maps of a batch, which is filled up to `size` for the compiled function."""
    missing = size - len(labels)
    whole = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
    classes = np.concatenate([labels, np.repeat(labels[-1:], missing)])
    return np.asarray(find_map(whole.astype(np.float32) / 255, classes))[: len(labels)]


def _shown(count: int) -> set[int]:
    """Numbers of the images that are drawn."""
    return set(data_order(1, 0, count)[:_SHOWN].tolist())


def _draw_curves(score: LocalizationScore, numbers: dict[str, Any], stem: Path) -> list[Path]:
    """The share of images that are boxed right, by the threshold."""
    figure, (panel,) = make_figure(5.5, 3.2)
    curves = score.curves()["all_contours"]
    for overlap, curve, color in zip(OVERLAPS, curves, (GREEN, BLUE, ORANGE), strict=True):
        panel.plot(SHARES, curve, color=color, label=f"IoU from {overlap} on")
    centered = numbers["centered_box"]
    for found, color in zip(centered, (GREEN, BLUE, ORANGE), strict=True):
        panel.axhline(found["accuracy"], color=color, linewidth=1, linestyle=":")
    panel.set_xlim(0, 1)
    panel.set_ylim(0, 100)
    panel.set_xlabel("threshold, as share of a map's greatest value (dotted: best centred square)")
    panel.set_ylabel("images boxed right [%]")
    panel.legend(frameon=False)
    return save_figure(figure, stem)


def rows(numbers: dict[str, Any]) -> list[tuple[str, str]]:
    """For people."""
    each = [f"{found['accuracy']:.2f}" for found in numbers["all_contours"]]
    thresholds = [f"{found['threshold']:g}" for found in numbers["all_contours"]]
    return [
        ("images, and their maps", f"{numbers['images']:,}, {numbers['method']}"),
        ("MaxBoxAccV2 [%]", f"{numbers['max_box_acc_v2']:.2f}"),
        ("at IoU 0.3 / 0.5 / 0.7 [%]", " / ".join(each)),
        ("thresholds", " / ".join(thresholds)),
        ("MaxBoxAcc, largest part, IoU 0.5 [%]", f"{numbers['max_box_acc']:.2f}"),
        ("top-1 localisation [%]", f"{numbers['top1_localization']:.2f}"),
        ("best centred square, V2 [%]", f"{numbers['centered_box_acc_v2']:.2f}"),
    ]


def check(subject: Subject, options: Options) -> None:
    """All images have to have boxes, and the network the maps."""
    height, width, channels = subject.images.shape[1:]
    if height != width:
        raise ConfigError(
            f"the suite localization squeezes images to squares, but the network reads {height} x"
            f" {width}: leave it out of --suite."
        )
    make_cam(subject.network, options.cam)
    layer = default_layer(subject.network)
    if layer not in spatial_layers(subject.network, (height, width, channels)):
        raise ConfigError(
            f"the suite localization needs a map with positions, but {layer} of"
            f" {subject.trained.config.model.name} has one alone for images of {height} x {width}:"
            " leave it out of --suite."
        )
    _boxed(subject, options)


def asks(subject: Subject, options: Options) -> dict[str, Any]:
    """The boxes, whichever file they are from, and the method."""
    digest = hashlib.sha256()
    if options.boxes is not None:
        for name, boxes in sorted(read_boxes(options.boxes).items()):
            digest.update(f"{name} {boxes.corners.tolist()}".encode())
    return {
        "boxes": digest.hexdigest()[:16],
        "cam": options.cam or default_method(subject.network),
    }


SUITE = Suite(
    "localization",
    asks,
    measure,
    rows,
    check,
)
