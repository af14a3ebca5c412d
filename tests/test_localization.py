import json

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from automix_jax.data import open_dataset
from automix_jax.data.prepare import prepare
from automix_jax.data.records import ArrayRecords, FileRecords, Names
from automix_jax.errors import ConfigError, DataError, ImageError
from automix_jax.evaluate.localization.annotations import ImageBoxes, read_boxes
from automix_jax.evaluate.localization.boxes import (
    contour_boxes,
    largest_box,
    largest_boxes,
    quantize,
)
from automix_jax.evaluate.localization.images import localization_images
from automix_jax.evaluate.localization.matching import fit_boxes, match_boxes, scale_boxes
from automix_jax.evaluate.localization.metric import LocalizationScore, intersection_over_union
from automix_jax.evaluate.localization.resize import normalize_maps, upsample_cubic
from automix_jax.report.localization_pictures import Localized, draw
from automix_jax.report.suites.localization import boxed, boxes_beside
from tests import live_wsol, miniatures

# -- maps --------------------------------------------------------------------------------------


def test_cubic_weights():
    """Keys' kernel with a = -3/4 at 1/4, 3/4, 5/4 and 7/4 of a pixel; the border repeats."""
    near, middle, far, farthest = np.array([225, 67, -27, -9]) / 256
    spikes = np.eye(7)[[3, 0]][:, None]
    inside, edge = upsample_cubic(spikes, 1, 14)[:, 0]
    expected = [farthest, far, middle, near, near, middle, far, farthest]
    np.testing.assert_array_equal(inside, [0, 0, 0, *expected, 0, 0, 0])
    first = [near + middle + farthest, near + far, middle + farthest, far, farthest]
    np.testing.assert_array_equal(edge, [*first, *[0] * 9])


@pytest.mark.parametrize(("source", "target"), [((7, 7), (224, 224)), ((14, 9), (64, 33))])
def test_maps_are_resized_as_by_opencv(source, target):
    maps = np.random.default_rng(0).normal(size=(4, *source)).astype(np.float32)
    ours = upsample_cubic(maps, *target)
    assert ours.dtype == np.float64
    for small, large in zip(maps, ours, strict=True):
        theirs = cv2.resize(small, target[::-1], interpolation=cv2.INTER_CUBIC)
        np.testing.assert_allclose(large, theirs, atol=2e-6)  # its weights are float32


def test_normalized_maps():
    maps = np.random.default_rng(0).normal(size=(5, 4, 6)).astype(np.float32)
    maps[1] = 3
    maps[2, 1, 1], maps[3, 0, 0] = np.nan, np.inf
    made = normalize_maps(maps)
    assert made.dtype == np.float64 and not made[1:4].any()
    for score_map in made[[0, 4]]:
        assert (score_map.min(), score_map.max()) == (0, 1)


# -- boxes -------------------------------------------------------------------------------------


def opencv_boxes(levels, threshold, *, largest):
    mask = (levels > threshold).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if largest and contours:
        contours = [max(contours, key=cv2.contourArea)]
    last_row, last_column = np.array(levels.shape) - 1
    boxes = [cv2.boundingRect(contour) for contour in contours]
    return [
        (x, y, min(x + width, last_column), min(y + height, last_row))
        for x, y, width, height in boxes
    ] or [(0, 0, 0, 0)]


def random_maps():
    """Small ones of few levels, where many parts are equal or one inside another, and smooth."""
    rng = np.random.default_rng(0)
    for _ in range(150):
        greatest = rng.integers(1, 7)
        yield rng.integers(0, greatest + 1, rng.integers(1, 16, 2)) / greatest
    for side in (5, 9, 14):
        yield from normalize_maps(upsample_cubic(rng.normal(size=(1, side, side)), 40, 32))


def test_boxes_are_those_of_opencv():
    thresholds, holes = 0, 0
    for score_map in random_maps():
        levels = quantize(score_map)
        single, multiple = largest_boxes(score_map), contour_boxes(score_map)
        for threshold in range(max(levels.max(), 1)):
            if threshold and not (levels == threshold).any():
                continue  # the same mask as before
            thresholds += 1
            for found, largest in ((single, True), (multiple, False)):
                ours = found.corners[found.threshold == threshold].tolist()
                theirs = opencv_boxes(levels, threshold, largest=largest)
                assert sorted(map(tuple, ours)) == sorted(theirs)
            holes += len(theirs) > cv2.connectedComponents(np.uint8(levels > threshold))[0] - 1
        for found in (single, multiple):
            expected = np.arange(max(levels.max(), 1))
            np.testing.assert_array_equal(np.unique(found.threshold), expected)
    assert thresholds > 600 and holes > 100


@pytest.mark.parametrize(
    ("rows", "largest", "multiple"),
    [
        # A hole's contour runs on the pixels around it.
        (["11111", "10001", "11111"], (0, 0, 4, 2), [(0, 0, 4, 2), (0, 0, 4, 2)]),
        # What is open to the border is no hole; corners connect parts, but not holes.
        (["1110", "1011", "1100"], (0, 0, 3, 2), [(0, 0, 3, 2), (0, 0, 3, 2)]),
        (["1101", "1000", "1111"], (0, 0, 3, 2), [(0, 0, 3, 2), (3, 0, 3, 1)]),
        # A line encloses nothing, however long; of equals the last counts.
        (["11111", "00000", "11000", "11000"], (0, 2, 2, 3), [(0, 0, 4, 1), (0, 2, 2, 3)]),
        (["11000", "00000", "00011"], (3, 2, 4, 2), [(0, 0, 2, 1), (3, 2, 4, 2)]),
        # A ring counts with what it encloses, of which another part is.
        (
            ["1111100", "1000100", "1010111", "1000111", "1111111"],
            (0, 0, 6, 4),
            [(0, 0, 6, 4), (0, 0, 5, 4), (2, 2, 3, 3)],
        ),
        (["000", "000"], (0, 0, 0, 0), [(0, 0, 0, 0)]),
    ],
)
def test_boxes_of_a_mask(rows, largest, multiple):
    score_map = np.array([[float(pixel) for pixel in row] for row in rows])
    assert tuple(largest_box(score_map, 0.5)) == largest
    found = contour_boxes(score_map)
    assert sorted(map(tuple, found.corners[found.threshold == 0].tolist())) == sorted(multiple)


def test_overlaps():
    def overlap(*boxes):
        return intersection_over_union(*(np.array(box)[None] for box in boxes)).item()

    assert overlap((1, 2, 5, 6), (3, 1, 4, 5)) == 8 / 27
    assert overlap((0, 0, 0, 0), (0, 0, 0, 0)) == 1  # a pixel
    assert overlap((0, 0, 3, 3), (4, 0, 5, 3)) == 0
    boxes = np.array([(1, 1, 3, 3), (4, 4, 5, 5)])
    np.testing.assert_array_equal(intersection_over_union(boxes, boxes), np.eye(2))


# -- scores ------------------------------------------------------------------------------------


def test_scores_of_the_benchmark():
    """Recorded from the benchmark's own code: see `tests.live_wsol`."""
    recorded = dict(np.load(live_wsol.RECORD))
    ours = live_wsol.score(recorded)
    result, curves = ours.result(), ours.curves()
    for contours in live_wsol.CONTOURS:
        np.testing.assert_array_equal(curves[contours], recorded[f"hits_{contours}"] * 100 / 200)
        accuracy = [score["accuracy"] for score in result[contours]]
        np.testing.assert_array_equal(accuracy, recorded[f"scores_{contours}"])
        assert [score["top1"] for score in result[contours]] == accuracy
    assert result["max_box_acc"] == recorded["scores_largest_contour"][1]
    assert result["max_box_acc_v2"] == recorded["scores_all_contours"].mean()


def made_images():
    """Two boxes, in some images one with a dent, and where the object is said to be."""
    maps, boxes = np.zeros((12, 14, 14)), []
    for i, score_map in enumerate(maps):
        shift, offset = i % 3, 6 * (i % 4)
        score_map[1:5, 1 + shift : 6 + shift] = 1
        score_map[7:14, 6:14] = i % 2
        if i % 4 == 0:
            score_map[2:4, 2 + shift : 5 + shift] = 0.2
        corners = [16 * (1 + shift) + offset, 16 + offset, 16 * (6 + shift) + offset, 80 + offset]
        boxes.append(np.array([corners]))
    return maps, boxes


def test_scores_of_made_images():
    """Accuracies and thresholds as the benchmark gives them; of equals the first counts."""
    maps, boxes = made_images()
    score = LocalizationScore(224)
    for part in (slice(5), slice(5, 12)):  # as batches come
        score.add(maps[part], boxes[part], np.arange(12)[part] % 4 == 0)
    result = score.result()
    for contours, accuracies, thresholds in (
        ("all_contours", [100, 75, 50], [0.142, 0.142, 0.157]),
        ("largest_contour", [100, 50, 25], [0.836, 0.095, 0.114]),
    ):
        assert [part["accuracy"] for part in result[contours]] == accuracies
        assert [part["threshold"] for part in result[contours]] == thresholds
        assert [part["overlap"] for part in result[contours]] == [0.3, 0.5, 0.7]
    assert (result["max_box_acc"], result["max_box_acc_v2"]) == (50, 75)
    assert (result["images"], result["images_choosing"]) == (12, 12)
    assert result == json.loads(json.dumps(result))
    # Of images 0, 4 and 8, whose class is right, all are boxed right at IoU 0.5.
    assert result["top1_localization"] == 25


def test_threshold_of_other_images():
    """Image 0 is boxed right only above 0.5, image 1 only below: who chooses, wins."""
    low = np.full((8, 8), 0.0)
    low[2:6, 2:6] = 0.5
    low[3:5, 3:5] = 1
    boxes = [np.array([(3, 3, 5, 5)]), np.array([(2, 2, 6, 6)]), np.array([(2, 2, 6, 6)])]
    maps, right = np.stack([low] * 3), np.ones(3, bool)

    def result(choose_with):
        score = LocalizationScore(8, choose_with)
        score.add(maps, boxes, right)
        return score.result()

    everyone, first, second = result(()), result([0]), result([1])
    assert everyone["max_box_acc"] == pytest.approx(200 / 3)
    assert (first["max_box_acc"], first["images"], first["images_choosing"]) == (0, 2, 1)
    assert second["max_box_acc"] == 50
    assert second["largest_contour"][1]["threshold"] < 0.5
    assert first["largest_contour"][1]["threshold"] > 0.49
    for choose_with, match in (([3], "to choose"), (range(3), "to report")):
        with pytest.raises(ConfigError, match=match):
            result(choose_with)


def test_centered_box():
    """The best square at the centre, whatever the maps say; of several boxes one is enough."""
    score = LocalizationScore(32)
    boxes = [np.array([(8, 8, 23, 23)]), np.array([(0, 0, 1, 1), (8, 8, 23, 23)])]
    boxes.append(np.array([(0, 0, 3, 3)]))
    score.add(np.zeros((3, 4, 4)), boxes, np.zeros(3, bool))
    result = score.result()
    sides = [part["side"] for part in result["centered_box"]]
    # The least side whose square covers the share of 16 x 16 pixels.
    assert sides == [9 / 32, 12 / 32, 14 / 32]
    assert result["centered_box_acc"] == pytest.approx(200 / 3)
    assert result["centered_box_acc_v2"] == pytest.approx(200 / 3)
    assert result["max_box_acc_v2"] == 0 and result["top1_localization"] == 0


# -- annotations -------------------------------------------------------------------------------


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


CUB = {
    "images.txt": "1 001.Albatross/a.jpg\n2 002.Auklet/b.jpg\n",
    "bounding_boxes.txt": "1 60.0 27.0 325.0 304.0\n2 139.5 30.9 153.0 264.2\n",
}
TINY = "val_0.JPEG\tn03444034\t0\t32\t44\t62\nval_1.JPEG\tn04067472\t52\t55\t57\t59\n"
XML = """<annotation><filename>{name}</filename>
<object><bndbox><xmin>111</xmin><ymin>108</ymin><xmax>441</xmax><ymax>193</ymax></bndbox></object>
<object><bndbox><xmin>2</xmin><ymin>69</ymin><xmax>437</xmax><ymax>207</ymax></bndbox></object>
</annotation>"""


def read(path):
    return {name: boxes.corners.tolist() for name, boxes in read_boxes(path).items()}


def test_boxes_of_published_datasets(tmp_path):
    assert read(write(tmp_path / "cub", CUB)) == {
        "001.Albatross/a.jpg": [[60, 27, 385, 331]],
        "002.Auklet/b.jpg": [[139, 30, 292, 295]],
    }
    write(tmp_path / "tiny", {"val/val_annotations.txt": TINY})
    expected = {"val_0.JPEG": [[0, 32, 44, 62]], "val_1.JPEG": [[52, 55, 57, 59]]}
    for path in ("tiny", "tiny/val", "tiny/val/val_annotations.txt"):
        assert read(tmp_path / path) == expected
    files = {"val/a_1.xml": XML.format(name="a_1"), "n01/b.xml": XML.format(name="b.jpg")}
    both = [[111, 108, 441, 193], [2, 69, 437, 207]]
    assert read(write(tmp_path / "xml", files)) == {"a_1.JPEG": both, "b.jpg": both}


@pytest.mark.parametrize("name", ["cub200", "tiny_imagenet", "aircraft"])
def test_boxes_of_prepared_records(tmp_path, name):
    """They are the official files', whose numbers need not be whole; aircraft's count from 1."""
    miniature = miniatures.build(name)
    source = miniatures.write_archives(miniature, tmp_path / "in")
    out = prepare(name, source, tmp_path / "out", unverified=True).out
    found = read_boxes(out)
    data = open_dataset(name, out)
    pictures = miniature.splits["validation" if name == "tiny_imagenet" else "test"]
    expected = {}
    for picture in pictures:
        left, top, right, bottom = picture.box
        if name == "cub200":
            right, bottom = left + right, top + bottom
        first = 1 if name == "aircraft" else 0
        expected[picture.filename] = [[int(x - first) for x in (left, top, right, bottom)]]
    assert expected and {n: boxes.corners.tolist() for n, boxes in found.items()} == expected
    names = [data.test[i].name for i in range(len(data.test))]
    matched = match_boxes(found, names, str(out))
    assert [b.corners.tolist() for b in matched] == [expected[p.filename] for p in pictures]
    if name == "cub200":  # as from the official file
        official = read_boxes(
            miniatures.write_extracted(miniature, tmp_path / "cub") / "CUB_200_2011"
        )
        assert {n: official[n].corners.tolist() for n in expected} == expected
    config = ConfigDict({"name": name, "path": str(out)})
    beside = boxes_beside(config)
    assert beside == (None if name == "aircraft" else out)
    records, boxes = boxed(config, beside or out)
    assert len(records) == len(boxes) == len(pictures)


def test_prepared_records_without_boxes(tmp_path):
    source = miniatures.write_archives(miniatures.build("imagenet"), tmp_path / "in")
    out = prepare("imagenet", source, tmp_path / "out", unverified=True).out
    with pytest.raises(DataError, match="holds imagenet, whose records have no boxes"):
        read_boxes(out)


def test_boxes_of_a_table(tmp_path):
    """Columns in any order, several rows an image, names that hold a comma."""
    path = tmp_path / "boxes.csv"
    path.write_text('\ufeffpath,label,x0,y0,x1,y1\n./a/b.png,7,1,2,3.9,4\n"c,d.png",7,0,0,5,5\n\n')
    assert read(path) == {"a/b.png": [[1, 2, 3, 4]], "c,d.png": [[0, 0, 5, 5]]}
    path.write_text("x0,y0,x1,y1,path\n1,2,3,4,a.png\n5,6,7,8,a.png\n")
    boxes = read_boxes(path)["a.png"]
    assert boxes.corners.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert boxes.places == (f"{path}, line 2", f"{path}, line 3")


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("b.csv", "path,x0,y0,x1\n", ["line 1", '"y1"', "path,x0,y0,x1,y1"]),
        ("b.csv", "path,x0,y0,x1,y1\na,1,2,3\n", ["line 2", "4 fields"]),
        ("b.csv", "path,x0,y0,x1,y1\na,1,2,3,4\na,5,2,3,4\n", ["line 3", "5,2,3,4", "before"]),
        ("b.csv", "path,x0,y0,x1,y1\na,1,nan,3,4\n", ["line 2", "nan"]),
        ("b.csv", "path,x0,y0,x1,y1\na,1,,3,4\n", ["line 2", "empty"]),
        ("b.csv", "path,x0,y0,x1,y1\na,-1,2,3,4\n", ["line 2", "-1"]),
        ("b.csv", "path,x0,y0,x1,y1\na,1,2,inf,4\n", ["line 2", "inf"]),
        ("b.csv", 'path,x0,y0,x1,y1\n"a,1,2,3,4\n', ["line 2", "quote"]),
        ("val_annotations.txt", TINY + "val_2.JPEG n01\n", ["line 3", "2 fields"]),
        ("x/a.xml", "<annotation>", ["a.xml", "no XML"]),
        ("x/a.xml", XML.replace("441", "100"), ["a.xml", "111,108,100,193"]),
        ("x/a.xml", XML.replace("<xmax>441</xmax>", ""), ["a.xml", "empty"]),
        ("x/a.txt", "", ["has no boxes", "CSV"]),
    ],
)
def test_bad_annotations(tmp_path, name, text, parts):
    write(tmp_path, {name: text})
    with pytest.raises(DataError) as caught:
        read_boxes(tmp_path / name.split("/")[0])
    for part in (str(tmp_path), *parts):
        assert part in str(caught.value)


def test_other_bad_annotations(tmp_path):
    with pytest.raises(DataError, match="no boxes at"):
        read_boxes(tmp_path / "nowhere")
    broken = CUB | {"bounding_boxes.txt": "1 0 0 5 5\n3 0 0 5 5\n"}
    with pytest.raises(DataError, match=r"bounding_boxes\.txt, line 2: images\.txt has no image 3"):
        read_boxes(write(tmp_path / "cub", broken))
    (tmp_path / "b.csv").write_bytes(b"path,x0,y0,x1,y1\n\xff,1,2,3,4\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_boxes(tmp_path / "b.csv")


def boxes_of(*names):
    return {name: ImageBoxes(np.array([[i, 0, i, 0]]), ("",)) for i, name in enumerate(names)}


@pytest.mark.parametrize(
    ("annotated", "names"),
    [
        (["a/1.png", "b/1.png"], ["a/1.png", "b/1.png"]),
        (["val_0.JPEG", "val_1.JPEG"], ["val/images/val_0.JPEG", "val/images/val_1.JPEG"]),
        (["val_0.JPEG", "val_1.JPEG"], ["validation/0 val_0.JPEG", "validation/1 val_1.JPEG"]),
        (["1.X/a.jpg", "2.Y/b.jpg"], ["test/0 1.X/a.jpg", "test/1 2.Y/b.jpg"]),
        (["1.X/a.jpg", "2.Y/b.jpg"], ["test/1.X/a.jpg", "test/2.Y/b.jpg"]),
        (["images/a.png", "b.png", "not_used.png"], ["/data/a.png", "b.png"]),
        (["x/1.png", "y/1.png"], ["/data/test/x/1.png", "/data/test/y/1.png"]),
    ],
)
def test_boxes_find_their_images(annotated, names):
    found = match_boxes(boxes_of(*annotated), names, "boxes.csv")
    assert [boxes.corners[0, 0] for boxes in found] == [0, 1]


@pytest.mark.parametrize(
    ("annotated", "names", "count", "example"),
    [
        (["a.png"], ["a.png", "b.png", "c.png"], "2 of 3", "b.png"),
        (["x/1.png", "y/1.png"], ["z/1.png"], "1 of 1", "z/1.png"),  # which of the two?
        (["1.png"], ["x/1.png", "y/1.png"], "2 of 2", "x/1.png"),  # of which of the two?
    ],
)
def test_images_without_boxes(annotated, names, count, example):
    with pytest.raises(DataError) as caught:
        match_boxes(boxes_of(*annotated), names, "boxes.csv")
    for part in (count, example, "boxes.csv"):
        assert part in str(caught.value)


def test_scaled_boxes():
    box = np.array([[60, 27, 385, 331]])
    assert scale_boxes(box, (500, 335), 224).tolist() == [[26, 18, 172, 221]]
    rng = np.random.default_rng(0)
    boxes, (width, height) = rng.integers(0, 400, (500, 4)), (401, 437)
    for made, given in zip(scale_boxes(boxes, (width, height), 224), boxes.tolist(), strict=True):
        sides = (width, height, width, height)
        assert made.tolist() == [int(x * 224 / side) for x, side in zip(given, sides, strict=True)]


def test_boxes_within_their_image():
    boxes = ImageBoxes(np.array([[0, 0, 500, 335], [60, 27, 385, 331]]), ("f, line 2", "f, line 3"))
    fitted = fit_boxes(boxes, (500, 335), 224).tolist()
    assert fitted == [[0, 0, 223, 223], [26, 18, 172, 221]]
    with pytest.raises(DataError, match=r"f, line 3: the box 60,27,385,331 .* 385 x 330 pixels"):
        fit_boxes(ImageBoxes(boxes.corners[1:], boxes.places[1:]), (385, 330), 224)
    with pytest.raises(DataError, match="f, line 2"):
        fit_boxes(ImageBoxes(np.array([[5, 5, 5, 5]]), ("f, line 2",)), (5, 10), 224)


# -- images and pictures -----------------------------------------------------------------------


def test_images_are_squeezed(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"val/{i}.png" for i in range(70)]  # more than are decoded ahead
    (tmp_path / "val").mkdir()
    for i, name in enumerate(names):
        pixels = rng.integers(0, 256, (20 + i % 3, 31, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    records = FileRecords(tmp_path, Names(names), np.arange(70, dtype=np.int32) % 7)
    images = list(localization_images(records, 12))
    assert [image.name for image in images] == names
    assert [image.label for image in images] == [i % 7 for i in range(70)]
    assert [image.size for image in images] == [(31, 20 + i % 3) for i in range(70)]
    for image, name in zip(images, names, strict=True):
        file = Image.open(tmp_path / name)
        expected = np.asarray(file.resize((12, 12), Image.Resampling.BILINEAR), int)
        assert np.abs(image.pixels - expected).max() <= 1  # Pillow 13 may take columns first
    gray = ArrayRecords(rng.integers(0, 256, (3, 8, 8, 1), np.uint8), np.zeros(3, int), "test")
    for image, pixels in zip(localization_images(gray, 8, 1), gray.images, strict=True):
        np.testing.assert_array_equal(image.pixels, pixels)
    (tmp_path / names[3]).write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"3\.png"):
        list(localization_images(records, 12))


def count_of(pixels, color):
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((pixels == wanted).all(-1).sum())


def test_page(tmp_path):
    maps = np.zeros((3, 28, 28))
    maps[:, 7:14, 7:21] = 1
    boxes = [np.array([(7, 7, 21, 14)]), np.array([(0, 0, 6, 6), (8, 8, 20, 20)])]
    boxes.append(np.array([(0, 20, 3, 27)]))
    examples = [
        Localized(np.full((28, 28, channels), 128, np.uint8), score_map, truth, name)
        for channels, score_map, truth, name in zip(
            (3, 1, 3), maps, boxes, ("red_winged blackbird", "bird", "name " * 20), strict=True
        )
    ]
    path = tmp_path / "page.png"
    size = draw(path, examples, 0.25)
    pixels = np.asarray(Image.open(path))
    assert pixels.shape == (size[1], size[0], 3)
    assert count_of(pixels, "#f85149") > 300 and count_of(pixels, "#3fb950") > 300
    again = tmp_path / "again.png"
    draw(again, examples, 0.25)
    assert again.read_bytes() == path.read_bytes()
    # The heat map goes from the colours of 0 to those of 1.
    block = pixels[58 : 58 + 140, 16 + 144 : 16 + 144 + 140].astype(int)
    assert block[50, 70, 0] > block[50, 70, 2] and block[130, 70, 2] > 60
    with pytest.raises(ConfigError, match="cannot be written"):
        draw(tmp_path / "no" / "page.png", examples, 0.25)


def test_page_shows_the_boxes_in_their_places(tmp_path):
    """Frames reach from the first pixel of a box to its last, on tiles of 140 pixels."""
    image, score_map = np.full((28, 28, 3), 255, np.uint8), np.zeros((28, 28))
    score_map[20:25, 5:10] = 1  # its box is 5, 20, 10, 25
    example = Localized(image, score_map, np.array([(14, 2, 20, 8)]), "bird")
    draw(tmp_path / "page.png", [example], 0.5)
    tile = np.asarray(Image.open(tmp_path / "page.png"))[58 : 58 + 140, 16 : 16 + 140]
    for color, box in (("#3fb950", (14, 2, 20, 8)), ("#f85149", (5, 20, 10, 25))):
        wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        rows, columns = np.nonzero((tile == wanted).all(-1))
        left, top, right, bottom = 5 * np.array(box) + [0, 0, 5, 5]
        assert (columns.min(), rows.min()) == (left + 1, top + 1)
        assert (columns.max(), rows.max()) == (right - 2, bottom - 2)
