"""An export for Detectron2 inside Detectron2, live: what it computes there, and that it trains.

    python -m tests.live_detection [--steps 8] [--tasks voc_07_12 coco_2x]

Needs PyTorch, torchvision and Detectron2, of which the Python files alone are enough; no GPU. The
network is a ResNet-50 with random weights that keep signals as large as they are.

Prints a line for each check, deviations as a share of the root mean square of our feature maps:

    float64, float32   the largest of any element of res4 and res5 on two images of 224 pixels, from
                       our network on the same pixels; below 1e-9 and 2e-5
    mistakes           how far the features are off with BGR images, with the stride in the 1 x 1
                       convolution, and with MSRA's deviations; above 0.01, or nothing was compared
    author             what becomes of the file without its author, and with Caffe2 for one
    TASK               the script and the configuration that were exported, on rectangles in data
                       sets of the task's layout: the loss of every step, and the script's last
                       line. The mean of the last two losses has to be below that of the first two

Training is scaled down to images of 128 pixels, batches of two and few regions, and one trial,
of VOC two. Exits with 1 if a check fails.
"""

import argparse
import dataclasses
import importlib.util
import itertools
import json
import logging
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from automix_jax.evaluate.network import Network
from automix_jax.train.export import export
from automix_jax.weights import from_state_dict
from automix_jax.weights.detection import CONFIGS, SCRIPT
from tests import originals
from tests.conftest import x64
from tests.live_backbones import FLAGS, worst
from tests.test_detection import CASE, MEAN, STD
from tests.test_export import described

LIMITS = {"float64": 1e-9, "float32": 2e-5}
STAGES = {"res4": "stage3", "res5": "stage4"}
CLASSES = ("person", "bicycle", "car")  # of VOC and of COCO
MISTAKES = {
    "BGR": ["INPUT.FORMAT", "BGR"],
    "stride in 1x1": ["MODEL.RESNETS.STRIDE_IN_1X1", "True"],
    "std 1": ["MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]"],
}
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 200,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 100,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 10,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 1,
    "INPUT.MIN_SIZE_TRAIN": "(128,)",
    "INPUT.MIN_SIZE_TEST": 128,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.BASE_LR": 0.005,
    "SOLVER.WARMUP_ITERS": 1,
    "SOLVER.STEPS": "(1000,)",
    "DATALOADER.NUM_WORKERS": 0,
    "TEST.PRECISE_BN.NUM_ITER": 2,
}
# Runs a script with its arguments, and keeps the loss of every step.
RECORDED = """
import runpy, sys
from detectron2.engine import DefaultTrainer
proceed = DefaultTrainer.after_step
def after_step(self):
    with open(f"{self.cfg.OUTPUT_DIR}/losses.txt", "a") as file:
        print(self.storage.history("total_loss").latest(), file=file)
    proceed(self)
DefaultTrainer.after_step = after_step
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


# -- features ----------------------------------------------------------------------------------


def exported(out):
    """Exports a network; returns it as a function of pixels in [0, 1]."""
    state = originals.weights(originals.recorded().cases[CASE].shapes)
    found, _ = from_state_dict(state, "resnet50")
    trained = described("resnet50", 10, (224, 224, 3))
    trained.config.data.update(mean=MEAN, std=STD)
    trained = dataclasses.replace(trained, model=found.model(), variables=found.variables)
    export(trained, out, ["detectron2"])
    return Network(found.model(), found.variables, MEAN, STD)


def our_features(network, images, dtype):
    """Of uint8 images [B, H, W, 3], the stages [B, H, W, C]."""
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), network.variables)
    apply = jax.jit(lambda pixels, variables: network(pixels, variables)[1])
    features = apply(np.asarray(images, dtype) / 255, variables)
    return {ours: np.asarray(features[theirs]) for ours, theirs in STAGES.items()}


def their_features(folder, images, dtype, options=()):
    """The same of Detectron2, from the exported files."""
    import torch
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    cfg = get_cfg()
    cfg.merge_from_file(str(folder / "voc_07_12.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *options])
    model = build_model(cfg).eval()
    DetectionCheckpointer(model).load(str(folder / cfg.MODEL.WEIGHTS))
    model = model.to(getattr(torch, dtype))
    for name in ("pixel_mean", "pixel_std"):  # which were rounded to float32
        values = torch.tensor(cfg.MODEL[name.upper()], dtype=getattr(torch, dtype))
        setattr(model, name, values[:, None, None])
    if cfg.INPUT.FORMAT == "BGR":
        images = images[..., ::-1]
    inputs = [
        {"image": torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)))} for x in images
    ]
    with torch.no_grad():
        res4 = model.backbone(model.preprocess_image(inputs).tensor)["res4"]
        res5 = model.roi_heads.res5[:-1](res4)  # without the norm that is not pretrained
    maps = {"res4": res4, "res5": res5}
    return {name: value.numpy().transpose(0, 2, 3, 1) for name, value in maps.items()}


def compare(folder, network):
    """The lines about features, and whether each is as it should be."""
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3)).astype(np.uint8)
    with x64():
        exact = our_features(network, images, "float64")
    single = our_features(network, images, "float32")
    for dtype, ours in (("float64", exact), ("float32", single)):
        theirs = their_features(folder, images, dtype)
        gaps = {name: worst(theirs[name], ours[name]) for name in STAGES}
        line = ", ".join(f"{name} {gap:.1e}" for name, gap in gaps.items())
        yield f"{dtype}: {line}", max(gaps.values()) < LIMITS[dtype]
    for mistake, options in MISTAKES.items():
        theirs = their_features(folder, images, "float32", options)
        gaps = {name: worst(theirs[name], single[name]) for name in STAGES}
        line = ", ".join(f"{name} {gap:.2g}" for name, gap in gaps.items())
        yield f"mistake, {mistake}: {line}", min(gaps.values()) > 0.01
    for author in (None, "Caffe2"):
        yield misread(folder, images, single, author)


def misread(folder, images, ours, author):
    """What Detectron2 makes of the weights by another author: it must not be what they are."""
    path = folder / "resnet50.detectron2.pkl"
    data = path.read_bytes()
    content = pickle.loads(data) | {"__author__": author}
    if author is None:
        del content["__author__"]
    path.write_bytes(pickle.dumps(content))
    try:
        theirs = their_features(folder, images, "float32")
    except (ValueError, AttributeError, KeyError) as error:
        return f"author {author}: refused, {type(error).__name__}: {str(error)[:60]}", True
    finally:
        path.write_bytes(data)
    gaps = {name: worst(theirs[name], ours[name]) for name in STAGES}
    return f"author {author}: {', '.join(f'{k} {v:.2g}' for k, v in gaps.items())}", True


# -- training ----------------------------------------------------------------------------------


def draw(rng, side=128):
    """Noise with two rectangles whose colour is their class: the image, and (class, x, y, w, h)."""
    image, boxes = rng.integers(60, 120, (side, side, 3)), []
    for left in (4, side // 2 + 4):
        label, (width, height) = int(rng.integers(len(CLASSES))), rng.integers(30, side // 2 - 8, 2)
        top = int(rng.integers(4, side - height - 4))
        image[top : top + height, left : left + width] = 30
        image[top : top + height, left : left + width, label] = 230
        boxes.append((label, left, top, int(width), int(height)))
    return Image.fromarray(image.astype(np.uint8)), boxes


def write_voc(root, rng):
    """Data sets of VOC's layout; its boxes count pixels from 1."""
    for year, split, size in ((2007, "trainval", 8), (2012, "trainval", 8), (2007, "test", 4)):
        place = root / f"VOC{year}"
        for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (place / part).mkdir(parents=True, exist_ok=True)
        names = [f"{split}{i:03d}" for i in range(size)]
        (place / f"ImageSets/Main/{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            image, boxes = draw(rng)
            image.save(place / f"JPEGImages/{name}.jpg", quality=95)
            objects = "".join(
                f"<object><name>{CLASSES[k]}</name><pose>Frontal</pose><truncated>0</truncated>"
                f"<difficult>0</difficult><bndbox>"
                f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
                "</bndbox></object>"
                for k, x, y, w, h in boxes
            )
            size_of = f"<size><width>{image.width}</width><height>{image.height}</height></size>"
            xml = f"<annotation>{size_of}{objects}</annotation>"
            (place / f"Annotations/{name}.xml").write_text(xml)


def write_coco(root, rng):
    """Data sets of COCO's layout, with all of its classes."""
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    categories = [part for part in COCO_CATEGORIES if part["isthing"]]
    numbers = {part["name"]: part["id"] for part in categories}
    (root / "coco/annotations").mkdir(parents=True)
    for split, size in (("train2017", 16), ("val2017", 4)):
        (root / "coco" / split).mkdir()
        images, annotations = [], []
        for i in range(1, size + 1):
            image, boxes = draw(rng)
            image.save(root / f"coco/{split}/{i}.jpg", quality=95)
            shape = {"width": image.width, "height": image.height}
            images.append({"id": i, "file_name": f"{i}.jpg", **shape})
            annotations += [
                {
                    "id": len(annotations) + j,
                    "image_id": i,
                    "category_id": numbers[CLASSES[label]],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "segmentation": [],
                }
                for j, (label, *box) in enumerate(boxes, 1)
            ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        path = root / f"coco/annotations/instances_{split}.json"
        path.write_text(json.dumps(content | {"info": {}}))


def train(folder, task, steps):
    """Runs what was exported, as a user types it; the line, and whether the loss fell."""
    trials = 2 if task == "voc_07_12" else 1
    with tempfile.TemporaryDirectory() as place:
        rng = np.random.default_rng(0)
        (write_voc if task == "voc_07_12" else write_coco)(Path(place), rng)
        out = Path(place, "output")
        options = SMALL | {"SOLVER.MAX_ITER": steps, "OUTPUT_DIR": out}
        command = [sys.executable, "-c", RECORDED, "train_net.py", "--config-file", f"{task}.yaml"]
        command += ["--num-gpus", "0", "--trials", str(trials)]
        command += [str(word) for pair in options.items() for word in pair]
        environment = os.environ | {"DETECTRON2_DATASETS": place, "OMP_NUM_THREADS": "2"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            return f"{task}: {done.stderr[-2000:]}", False
        logs = [out / f"trial{i}" for i in range(1, trials + 1)] if trials > 1 else [out]
        losses = [[float(x) for x in (log / "losses.txt").read_text().split()] for log in logs]
    shown = "; ".join(" ".join(f"{loss:.2f}" for loss in trial) for trial in losses)
    line = f"{task}: loss {shown}; {done.stdout.strip().splitlines()[-1]}"
    fell = [np.mean(trial[-2:]) < np.mean(trial[:2]) for trial in losses]
    return line, len(losses) == trials and all(len(x) == steps for x in losses) and all(fell)


def main(arguments):
    """Checks; returns the exit code."""
    needed = ("torch", "torchvision", "detectron2")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
        return 2
    import detectron2
    import torch

    os.environ["XLA_FLAGS"] = FLAGS
    for name in ("detectron2", "fvcore"):
        logging.getLogger(name).setLevel(logging.ERROR)  # what is not loaded, of which they warn
    tasks = [Path(name).stem for name in CONFIGS]
    parser = argparse.ArgumentParser(description="An export for Detectron2, inside Detectron2.")
    parser.add_argument("--steps", type=int, default=8, help="of training (default: %(default)s)")
    parser.add_argument("--tasks", nargs="*", choices=tasks, default=tasks)
    options = parser.parse_args(arguments)
    print(f"detectron2 {detectron2.__version__}, torch {torch.__version__}, jax {jax.__version__}")
    failed = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "exported")
        network = exported(folder)
        spec = importlib.util.spec_from_file_location("train_net", folder / SCRIPT)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))  # registers its head
        lines = itertools.chain(
            compare(folder, network), (train(folder, task, options.steps) for task in options.tasks)
        )
        for line, good in lines:
            failed += not good
            print(line if good else f"{line}  WRONG", flush=True)
    print(f"{failed} wrong" if failed else "all as it should be")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
