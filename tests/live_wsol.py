"""Our MaxBoxAcc and MaxBoxAccV2 against the benchmark that defines them, live.

    python -m tests.live_wsol EVALUATION.py            # of clovaai/wsolevaluation, with util.py
    python -m tests.live_wsol EVALUATION.py --size=112 --record    # tests/data/localization.npz

Needs OpenCV, and neither PyTorch nor an old numpy: what the file imports without use is replaced.
Random maps, smooth and rough, go through both sides. Prints, for the box of one contour and for
those of all,

    same maps    counts of right boxes that differ, of all overlaps and thresholds, where the
                 original gets our maps at full size; has to be 0
    own maps     the largest difference of a score in percent where OpenCV resizes the maps: its
                 weights are float32, so that a pixel may lie a level lower; at most one image

Exits with 1 if one is exceeded.
"""

import argparse
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np

from automix_jax.evaluate.localization.matching import scale_boxes
from automix_jax.evaluate.localization.metric import OVERLAPS, SHARES, LocalizationScore
from automix_jax.evaluate.localization.resize import normalize_maps, upsample_cubic

RECORD = Path(__file__).parent / "data" / "localization.npz"
CONTOURS = ("largest_contour", "all_contours")


def make_cases(count, size, seed):
    """Maps by side, and sizes and boxes of as many images: what `score` takes."""
    rng = np.random.default_rng(seed)
    maps, sizes, boxes, image = {}, [], [], []
    for side in (7, 14):
        rough = rng.normal(size=(count // 2, side, side))
        blob = np.empty_like(rough)
        for i in range(len(blob)):
            sizes.append(rng.integers(60, 500, 2))
            for _ in range(rng.choice([1, 1, 1, 2, 3])):
                start = rng.random(2) * 0.6
                corners = np.concatenate([start, start + 0.1 + rng.random(2) * (0.85 - start)])
                boxes.append((corners.clip(0, 0.99) * [*sizes[-1], *sizes[-1]]).astype(int))
                image.append(len(sizes) - 1)
            grid = (np.mgrid[:side, :side] + 0.5) / side
            center, spread = (corners[1::-1] + corners[:1:-1]) / 2, corners[:1:-1] - corners[1::-1]
            distance = (grid - center[:, None, None]) / (0.6 * spread[:, None, None])
            blob[i] = np.exp(-(distance**2).sum(0))
        noise = rng.choice([0.02, 0.1, 0.3, 2.0], (count // 2, 1, 1))  # the last hides the object
        maps[side] = (blob + noise * rough).astype(np.float32)
    maps[14][0] = 1.0  # without any contour
    return {
        "size": np.array(size),
        "maps_7": maps[7],
        "maps_14": maps[14],
        "sizes": np.array(sizes),
        "boxes": np.array(boxes),
        "image": np.array(image),
    }


def case_boxes(cases, index):
    """The boxes of an image as they are stored."""
    return cases["boxes"][cases["image"] == index]


def score(cases):
    """Our counters, fed with all cases."""
    size, index = int(cases["size"]), 0
    ours = LocalizationScore(size)
    for maps in (cases["maps_7"], cases["maps_14"]):
        boxes = [
            scale_boxes(case_boxes(cases, i), tuple(cases["sizes"][i].tolist()), size)
            for i in range(index, index + len(maps))
        ]
        index += len(maps)
        ours.add(maps, boxes, np.ones(len(maps), bool))
    return ours


def load_original(path, cases):
    """The original's module, with the cases in the place of its lists."""
    setattr(np, "float", float)  # noqa: B010  # which numpy had when it was written
    names = [str(i) for i in range(len(cases["sizes"]))]
    lists = types.ModuleType("data_loaders")
    lists.configure_metadata = lists.get_mask_paths = None
    lists.get_image_ids = lambda metadata: names
    lists.get_bounding_boxes = lambda metadata: {
        name: [tuple(box) for box in case_boxes(cases, i).tolist()] for i, name in enumerate(names)
    }
    lists.get_image_sizes = lambda metadata: dict(zip(names, cases["sizes"].tolist(), strict=True))
    config = types.ModuleType("config")
    config.str2bool = bool
    torch, utils, data = map(types.ModuleType, ("torch", "torch.utils", "torch.utils.data"))
    torch.utils, utils.data = utils, data
    data.Dataset = data.DataLoader = object
    replaced = (lists, config, torch, utils, data)
    sys.modules |= {module.__name__: module for module in replaced}
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location("evaluation", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module._RESIZE_LENGTH = int(cases["size"])
    return module


def run_original(module, maps, multiple):
    """The original's counts of right boxes [3, T] and its scores [3], for maps at full size."""
    evaluator = module.BoxEvaluator(
        metadata=None,
        dataset_name="CUB",
        split="test",
        cam_threshold_list=list(SHARES),
        iou_threshold_list=[round(100 * overlap) for overlap in OVERLAPS],
        mask_root=None,
        multi_contour_eval=multiple,
    )
    for index, score_map in enumerate(maps):
        evaluator.accumulate(score_map, str(index))
    return np.stack(list(evaluator.num_correct.values())), np.array(evaluator.compute())


def resized_by_opencv(maps, size):
    """Maps as the original's inference.py makes them out of a network's."""
    import cv2

    for score_map in maps:
        large = cv2.resize(score_map.astype(float), (size, size), interpolation=cv2.INTER_CUBIC)
        if large.min() == large.max():
            yield np.zeros_like(large)
        else:
            large -= large.min()
            yield large / large.max()


def main(arguments):
    """Compares; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("evaluation", type=Path, metavar="EVALUATION.py")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args(arguments)
    cases = make_cases(options.images, options.size, options.seed)
    module = load_original(options.evaluation.resolve(), cases)
    ours = score(cases)
    curves, result = ours.curves(), ours.result()
    small = [*cases["maps_7"], *cases["maps_14"]]
    full = [
        normalize_maps(upsample_cubic(part[None], options.size, options.size))[0] for part in small
    ]
    failed, recorded = 0, {}
    for contours in CONTOURS:
        multiple = contours == "all_contours"
        hits, scores = run_original(module, full, multiple)
        differing = int((100 * hits / len(full) != curves[contours]).sum())
        accuracy = [part["accuracy"] for part in result[contours]]
        differing += int((scores != accuracy).sum())
        _, theirs = run_original(module, resized_by_opencv(small, options.size), multiple)
        gap = np.abs(theirs - accuracy).max()
        failed += differing + (gap > 100 / len(full))
        print(f"{contours:16} {scores}  same maps {differing}  own maps {gap:.3g}", flush=True)
        recorded |= {f"hits_{contours}": hits.astype(np.uint16), f"scores_{contours}": scores}
    if options.record:
        np.savez_compressed(RECORD, **cases, **recorded)
        print(f"{RECORD}  {RECORD.stat().st_size:,} bytes")
    print("differs" if failed else "equal")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
