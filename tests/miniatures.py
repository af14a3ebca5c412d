"""Miniatures of the published datasets, in the form of their official archives.

miniature = build("cub200")
write_archives(miniature, folder)     # or write_extracted(miniature, folder)
miniature.splits["train"]             # what must come back
"""

import dataclasses
import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.io import savemat

NAMES = (
    *("cifar10", "cifar100", "tiny_imagenet", "imagenet", "cub200", "aircraft"),
    *("inat2017", "inat2018", "places205"),
)
_PLACES = "data/vision/torralba/deeplearning/images256"


class Picture(NamedTuple):
    """One image of a miniature.

    Attributes:
        filename: as the prepared dataset calls it.
        label: its class.
        image: the encoded file; of CIFAR the pixels, uint8 [32, 32, 3].
        box: as the official file says it; empty where there are none.
    """

    filename: str
    label: int
    image: bytes | np.ndarray
    box: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Miniature:
    """A dataset of a few images.

    Attributes:
        name: of the dataset.
        class_names: in the order of the labels.
        splits: its images, in the order of the archive.
        archives: the content of each archive: members in their order.
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, list[Picture]]
    archives: dict[str, dict[str, bytes]]


def jpeg(seed: int, height: int = 12, width: int = 16) -> bytes:
    """An image of its own for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def build(name: str) -> Miniature:
    """The miniature of a dataset, one of `NAMES`."""
    builders = {
        "cifar10": lambda: _cifar("cifar10"),
        "cifar100": lambda: _cifar("cifar100"),
        "tiny_imagenet": _tiny_imagenet,
        "imagenet": _imagenet,
        "cub200": _cub,
        "aircraft": _aircraft,
        "inat2017": lambda: _inaturalist(2017),
        "inat2018": lambda: _inaturalist(2018),
        "places205": _places,
    }
    return builders[name]()


def write_archives(miniature: Miniature, folder: Path) -> Path:
    """Writes the archives under their official names; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, members in miniature.archives.items():
        write_archive(folder / name, members)
    return folder


def write_archive(path: Path, members: dict[str, bytes]) -> Path:
    """Writes a zip or tar of some members, compressed if its name says so."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        path.write_bytes(_tar(members, "w" if path.suffix == ".tar" else "w:gz"))
    return path


def _tar(members: dict[str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def write_extracted(miniature: Miniature, folder: Path) -> Path:
    """Writes what people extract from the archives; returns the folder.

    The tars of ImageNet go into train/WNID/ and val/.
    """
    tops = {"ILSVRC2012_img_train.tar": "train", "ILSVRC2012_img_val.tar": "val"}
    for archive, members in miniature.archives.items():
        _extract(members, folder / tops.get(archive, "."))
    return folder


def _extract(members: dict[str, bytes], folder: Path) -> None:
    for name, content in members.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".tar":
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                archive.extractall(path.with_suffix(""), filter="data")
        else:
            path.write_bytes(content)


def _cifar(name: str) -> Miniature:
    num_classes, batches, key, meta = {
        "cifar10": (10, [f"data_batch_{i}" for i in range(1, 6)], b"labels", "batches.meta"),
        "cifar100": (100, ["train"], b"fine_labels", "meta"),
    }[name]
    folder = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[name]
    names_key = {"cifar10": b"label_names", "cifar100": b"fine_label_names"}[name]
    batches = [*batches, "test_batch" if name == "cifar10" else "test"]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4 * len(batches), 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, num_classes, len(images))
    class_names = tuple(f"class{label}" for label in range(num_classes))
    members = {}
    for batch, part in zip(batches, np.split(np.arange(len(images)), len(batches)), strict=True):
        rows = images[part].transpose(0, 3, 1, 2).reshape(len(part), -1)
        content = {b"data": rows, key: labels[part].tolist(), b"batch_label": b"of four"}
        members[f"{folder}/{batch}"] = pickle.dumps(content, protocol=2)
    content = {names_key: [name.encode() for name in class_names]}
    members[f"{folder}/{meta}"] = pickle.dumps(content, protocol=2)
    pictures = [int(label) for label in labels]
    train = [Picture(f"{i:05d}.png", pictures[i], images[i]) for i in range(len(images) - 4)]
    test = [Picture(f"{i:05d}.png", pictures[i - 4], images[i - 4]) for i in range(4)]
    archive = f"{name.replace('cifar', 'cifar-')}-python.tar.gz"
    return Miniature(name, class_names, {"train": train, "test": test}, {archive: members})


def _tiny_imagenet() -> Miniature:
    wnids = ("n02124075", "n01443537", "n04067472")  # in the order of the file, not sorted
    classes = tuple(sorted(wnids))
    top = "tiny-imagenet-200"
    members = {
        f"{top}/wnids.txt": "".join(f"{wnid}\n" for wnid in wnids).encode(),
        f"{top}/words.txt": b"n02124075\tEgyptian cat\n",
    }
    splits: dict[str, list[Picture]] = {"train": [], "validation": []}
    for number, wnid in enumerate(wnids):
        boxes = ""
        for i in range(3):
            name, box = f"{wnid}_{i}.JPEG", (0.0, 10.0, 63.0 - i, 58.0)
            boxes += f"{name}\t0\t10\t{63 - i}\t58\n"
            image = jpeg(10 * number + i)
            members[f"{top}/train/{wnid}/images/{name}"] = image
            splits["train"].append(Picture(name, classes.index(wnid), image, box))
        members[f"{top}/train/{wnid}/{wnid}_boxes.txt"] = boxes.encode()
    lines = ""
    for i in range(4):
        name, wnid = f"val_{i}.JPEG", wnids[i % 3]
        members[f"{top}/val/images/{name}"] = image = jpeg(100 + i)
        lines += f"{name}\t{wnid}\t{i}\t32\t44\t62\n"
        picture = Picture(name, classes.index(wnid), image, (float(i), 32.0, 44.0, 62.0))
        splits["validation"].append(picture)
        members[f"{top}/test/images/test_{i}.JPEG"] = jpeg(200 + i)  # unlabelled
    members[f"{top}/val/val_annotations.txt"] = lines.encode()
    return Miniature("tiny_imagenet", classes, splits, {f"{top}.zip": members})


def _imagenet() -> Miniature:
    wnids = ("n01443537", "n01440764", "n02124075")  # by the numbers of the development kit
    classes = tuple(sorted(wnids))
    train_members, train = {}, []
    for wnid in (wnids[0], wnids[2], wnids[1]):
        images = {f"{wnid}_{i}.JPEG": jpeg(int(wnid[1:]) + i, 20 + i, 30) for i in (10, 2, 35)}
        train_members[f"{wnid}.tar"] = _tar(images)
        train += [Picture(name, classes.index(wnid), image) for name, image in images.items()]
    truth = (2, 1, 3, 2)
    names = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 5)]
    validation = [
        Picture(name, classes.index(wnids[truth[i] - 1]), jpeg(i)) for i, name in enumerate(names)
    ]
    kit = "ILSVRC2012_devkit_t12"
    devkit = {
        f"{kit}/readme.txt": b"as published",
        f"{kit}/data/ILSVRC2012_validation_ground_truth.txt": "".join(
            f"{number}\n" for number in truth
        ).encode(),
        f"{kit}/data/meta.mat": _meta_mat((*wnids, "n00001740")),
    }
    archives = {
        "ILSVRC2012_img_train.tar": train_members,
        "ILSVRC2012_img_val.tar": {each.filename: each.image for each in validation},
        "ILSVRC2012_devkit_t12.tar.gz": devkit,
    }
    return Miniature("imagenet", classes, {"train": train, "validation": validation}, archives)


def _meta_mat(wnids: tuple[str, ...]) -> bytes:
    """The table of synsets, whose last one is an inner node of the tree."""
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    synsets = np.zeros((len(wnids), 1), fields)
    for i, wnid in enumerate(wnids):
        children = len(wnids) - 1 if i == len(wnids) - 1 else 0
        synsets[i, 0] = (np.float64(i + 1), wnid, f"word {i}", np.float64(children))
    file = io.BytesIO()
    savemat(file, {"synsets": synsets})
    return file.getvalue()


def _cub() -> Miniature:
    top, classes = "CUB_200_2011", ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    lists: dict[str, str] = dict.fromkeys(
        ("images", "image_class_labels", "train_test_split", "bounding_boxes"), ""
    )
    splits: dict[str, list[Picture]] = {"train": [], "test": []}
    images = {}
    for i in range(1, 8):
        label = i % 2
        name = f"{classes[label]}/{classes[label][4:]}_{i:04d}_18.jpg"
        image, box = jpeg(i, 30, 40), (60.0, 27.5, 325.0, float(300 + i))
        lists["images"] += f"{i} {name}\n"
        lists["image_class_labels"] += f"{i} {label + 1}\n"
        lists["train_test_split"] += f"{i} {int(i < 5)}\n"
        lists["bounding_boxes"] += f"{i} {box[0]} {box[1]} {box[2]} {box[3]}\n"
        images[f"{top}/images/{name}"] = image
        splits["train" if i < 5 else "test"].append(Picture(name, label, image, box))
    members = {
        "attributes.txt": b"1 has_bill_shape::curved\n",
        **dict(list(images.items())[:3]),
        f"{top}/classes.txt": "".join(f"{i} {n}\n" for i, n in enumerate(classes, 1)).encode(),
        **{f"{top}/{name}.txt": text.encode() for name, text in lists.items()},
        **dict(list(images.items())[3:]),
    }
    return Miniature("cub200", classes, splits, {f"{top}.tgz": members})


def _aircraft() -> Miniature:
    top, classes = "fgvc-aircraft-2013b/data", ("707-320", "BAE 146-200", "F-16A/B")
    splits: dict[str, list[Picture]] = {"train": [], "test": []}
    texts = {"trainval": "", "test": "", "box": ""}
    members = {}
    for i in range(8):
        number, label = f"{1025794 + 37 * i:07d}", (i + 1) % 3
        image, box = jpeg(i, 25, 33), (3.0, 144.0, 998.0, 431.0 + i)
        texts["test" if i % 3 == 2 else "trainval"] += f"{number} {classes[label]}\n"
        texts["box"] += f"{number} 3 144 998 {431 + i}\n"
        members[f"{top}/images/{number}.jpg"] = image
        picture = Picture(f"{number}.jpg", label, image, box)
        splits["test" if i % 3 == 2 else "train"].append(picture)
    members |= {
        f"{top}/variants.txt": "".join(f"{name}\n" for name in classes).encode(),
        f"{top}/images_variant_trainval.txt": texts["trainval"].encode(),
        f"{top}/images_variant_test.txt": texts["test"].encode(),
        f"{top}/images_box.txt": texts["box"].encode(),
        "fgvc-aircraft-2013b/evaluation.m": b"% as published",
    }
    return Miniature("aircraft", classes, splits, {"fgvc-aircraft-2013b.tar.gz": members})


def _inaturalist(year: int) -> Miniature:
    top = {2017: "train_val_images", 2018: "train_val2018"}[year]
    species = (("Aves", "Parus major"), ("Plantae", "Viola"), ("Insecta", "Viola"))
    names = ("Parus major", "Viola (1)", "Viola (2)")  # a genus of plants, and one of insects
    splits: dict[str, list[Picture]] = {"train": [], "validation": []}
    lists: dict[str, dict] = {
        split: {
            "images": [],
            "annotations": [],
            "categories": [
                {"id": i, "name": name, "supercategory": kind}
                for i, (kind, name) in enumerate(species)
            ],
        }
        for split in splits
    }
    images = {}
    for i in range(9):
        split, label = ("validation" if i % 4 == 3 else "train"), (2 * i) % 3
        folder = species[label][1] if year == 2017 else str(label)
        name, image = f"{species[label][0]}/{folder}/{i:032x}.jpg", jpeg(i, 24, 18)
        images[f"{top}/{name}"] = image
        entry = {"id": 50 - i, "file_name": f"{top}/{name}", "width": 18, "height": 24}
        lists[split]["images"].append(entry)
        annotation = {"id": i, "image_id": 50 - i, "category_id": label}
        lists[split]["annotations"].insert(0, annotation)
        splits[split].append(Picture(name, label, image))
    train, validation = (json.dumps(lists[split]).encode() for split in splits)
    if year == 2017:
        files = {"train2017.json": train, "val2017.json": validation}
        archives = {"train_val_images.tar.gz": images, "train_val2017.zip": files}
    else:
        archives = {
            "train_val2018.tar.gz": images,
            "train2018.json.tar.gz": {"train2018.json": train},
            "val2018.json.tar.gz": {"val2018.json": validation},
        }
    return Miniature(f"inat{year}", names, splits, archives)


def _places() -> Miniature:
    classes = ("abbey", "airport_terminal", "apartment_building/outdoor")
    splits: dict[str, list[Picture]] = {"train": [], "validation": []}
    lists = dict.fromkeys(splits, "")
    images = {f"{_PLACES}/t/tower/gsun_of_the_test_images.jpg": jpeg(99)}
    for i in range(9):
        split, label = ("validation" if i % 3 == 1 else "train"), (i // 2) % 3
        name, image = f"a/{classes[label]}/gsun_{i:032x}.jpg", jpeg(i, 16, 16)
        images[f"{_PLACES}/{name}"] = image
        lists[split] += f"{name} {label}\n"
        splits[split].append(Picture(name, label, image))
    archives = {
        "imagesPlaces205_resize.tar.gz": images,
        "trainvalsplit_places205.tar.gz": {
            "trainvalsplit_places205/train_places205.csv": lists["train"].encode(),
            "trainvalsplit_places205/val_places205.csv": lists["validation"].encode(),
        },
    }
    return Miniature("places205", classes, splits, archives)
