"""Average precision against pycocotools, which is the benchmark's own code."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from florence.config.detection import BoxMetric
from florence.data.boxes import AnnotatedImage, Annotation
from florence.data.vocabularies import Vocabularies, Vocabulary
from florence.tasks.detection.box_metrics import (
    BoxResult,
    FoundBoxes,
    coco_results,
    ground_truth,
    measure,
    measured_names,
)

NAMES = ("cat", "dog", "owl")
PLAIN: Vocabularies = {"x": Vocabulary(NAMES)}


def truth(count: int, seed: int = 0, crowds: bool = True) -> list[AnnotatedImage]:
    """Images with boxes of very different sizes, some of them crowds."""
    random = np.random.default_rng(seed)
    images = []
    for number in range(count):
        boxes = []
        for _ in range(random.integers(0, 7)):
            width, height = np.exp(random.uniform(1.5, 5, 2))
            x, y = random.uniform(0, 300, 2)
            boxes.append(
                Annotation(
                    bbox=(float(x), float(y), float(width), float(height)),
                    category=NAMES[random.integers(3)],
                    crowd=bool(crowds and random.random() < 0.15),
                )
            )
        images.append(
            AnnotatedImage(image_id=number, width=500, height=500, source="x", boxes=tuple(boxes))
        )
    return images


def found_in(images: list[AnnotatedImage], seed: int = 1, noise: float = 1.5) -> list[FoundBoxes]:
    """Boxes near the truth, wrong ones, and ones of the wrong class."""
    random = np.random.default_rng(seed)
    found = []
    for image in images:
        boxes, labels = [], []
        for box in image.boxes:
            for _ in range(random.integers(0, 3)):
                x, y, width, height = box.bbox
                moved = np.array([x, y, x + width, y + height]) + random.normal(0, noise, 4)
                boxes.append([*np.minimum(moved[:2], moved[2:]), *np.maximum(moved[:2], moved[2:])])
                right = random.random() < 0.8
                labels.append(NAMES.index(box.category) if right else random.integers(3))
        for _ in range(random.integers(0, 4)):
            low = random.uniform(0, 300, 2)
            boxes.append([*low, *(low + random.uniform(5, 90, 2))])
            labels.append(random.integers(3))
        found.append(
            FoundBoxes(
                np.array(boxes, np.float32).reshape(-1, 4),
                random.random(len(boxes)).astype(np.float32),
                np.array(labels, np.int64),
            )
        )
    return found


def perfect(images: list[AnnotatedImage]) -> list[FoundBoxes]:
    found = []
    for image in images:
        corners = np.array([box.bbox for box in image.boxes], np.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        labels = np.array([NAMES.index(box.category) for box in image.boxes], np.int64)
        found.append(FoundBoxes(corners, np.ones(len(labels)), labels))
    return found


def by_pycocotools(images: list[AnnotatedImage], found: list[FoundBoxes]) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = copy.deepcopy(ground_truth(images, NAMES, PLAIN, federated=False))
        gt.createIndex()
        evaluation = COCOeval(gt, gt.loadRes(coco_results(found)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats: list[float] = evaluation.stats.tolist()
    return stats


def measured(images: list[AnnotatedImage], found: list[FoundBoxes], **given: Any) -> BoxResult:
    fields = {"metric": BoxMetric.COCO, "max_detections": 100, **given}
    return measure(images, found, NAMES, fields.pop("vocabularies", PLAIN), **fields)


ORDER = [
    *("ap", "ap50", "ap75", "apSmall", "apMedium", "apLarge"),
    *("ar1", "ar10", "ar100", "arSmall", "arMedium", "arLarge"),
]


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_pycocotools(seed: int) -> None:
    images = truth(40, seed)
    found = found_in(images, seed + 10)
    expected = dict(zip(ORDER, by_pycocotools(images, found), strict=True))
    metrics = measured(images, found).metrics
    assert 0.05 < metrics["ap"] < 0.95
    assert list(metrics) == [name for name in ORDER if expected[name] > -1]
    for name, value in metrics.items():
        assert value == pytest.approx(expected[name], abs=1e-9), name


def test_perfect_predictions_have_an_average_precision_of_one() -> None:
    images = truth(20, crowds=False)
    assert by_pycocotools(images, perfect(images))[0] == pytest.approx(1, abs=1e-9)
    result = measured(images, perfect(images))
    assert result.metrics["ap"] == pytest.approx(1, abs=1e-9)
    assert result.average_precision == pytest.approx([1, 1, 1])


def test_nothing_found_is_zero() -> None:
    images = truth(5)
    nothing = FoundBoxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, int))
    assert measured(images, [nothing] * 5).metrics["ap"] == 0


def test_the_order_of_images_does_not_matter() -> None:
    images = truth(30)
    found = found_in(images)
    back = measured(images[::-1], found[::-1]).metrics
    assert measured(images, found).metrics == pytest.approx(back, abs=1e-9)


def test_classes_have_figures_of_their_own() -> None:
    images = truth(30)
    found = found_in(images)
    result = measured(images, found)
    assert np.mean(result.average_precision) == pytest.approx(result.metrics["ap"])
    assert np.mean(result.average_precision_50) == pytest.approx(result.metrics["ap50"])
    assert result.precision.shape == (10, 101, 3)


def test_a_class_without_objects_counts_for_nothing() -> None:
    images = truth(30)
    found = found_in(images)
    names = (*NAMES, "yak")
    vocabularies = {"x": Vocabulary(names)}
    assert measured_names(images, vocabularies) == names
    more = measure(images, found, names, vocabularies, metric=BoxMetric.COCO, max_detections=100)
    assert more.metrics == pytest.approx(measured(images, found).metrics)
    assert np.isnan(more.average_precision[3])


def test_voc_counts_at_half() -> None:
    images = truth(20)
    found = found_in(images)
    metrics = measured(images, found, metric=BoxMetric.AP50).metrics
    assert next(iter(metrics)) == "ap50"
    assert metrics["ap50"] == measured(images, found).metrics["ap50"]


LVIS: Vocabularies = {
    "x": Vocabulary(NAMES, federated=True, frequencies=("r", "c", "f")),
}


def one_image(negatives: tuple[str, ...], not_exhaustive: tuple[str, ...] = ()) -> AnnotatedImage:
    box = Annotation(bbox=(10.0, 10.0, 50.0, 50.0), category="cat")
    return AnnotatedImage(
        image_id=0,
        width=99,
        height=99,
        source="x",
        boxes=(box,),
        negatives=negatives,
        not_exhaustive=not_exhaustive,
    )


def cat_and(label: int) -> list[FoundBoxes]:
    """The cat, and a box of a class with a higher score elsewhere."""
    boxes = np.array([[10, 10, 60, 60], [70, 70, 90, 90]], np.float32)
    return [FoundBoxes(boxes, np.array([0.5, 0.9], np.float32), np.array([0, label]))]


def dogs(negatives: tuple[str, ...]) -> list[AnnotatedImage]:
    """A second image with a dog, so that dogs are measured."""
    dog = Annotation(bbox=(10.0, 10.0, 50.0, 50.0), category="dog")
    other = AnnotatedImage(image_id=1, width=99, height=99, source="x", boxes=(dog,), negatives=())
    return [one_image(negatives), other]


def the_dog() -> FoundBoxes:
    box = np.array([[10, 10, 60, 60]], np.float32)
    return FoundBoxes(box, np.array([0.5], np.float32), np.array([1]))


def test_a_class_is_wrong_only_where_it_was_looked_for() -> None:
    found = [*cat_and(1), the_dog()]
    lvis = {"metric": BoxMetric.LVIS, "vocabularies": LVIS, "max_detections": 300}
    unknown = measured(dogs(()), found, **lvis).metrics
    assert (unknown["apRare"], unknown["apCommon"]) == (1.0, 1.0)
    negative = measured(dogs(("dog",)), found, **lvis).metrics
    assert negative["apRare"] == 1.0
    assert negative["apCommon"] == pytest.approx(0.5, abs=0.01)
    assert "apFrequent" not in negative


def test_more_of_a_class_that_was_not_counted_to_the_end_is_no_mistake() -> None:
    lvis = {"metric": BoxMetric.LVIS, "vocabularies": LVIS, "max_detections": 300}
    some = measured([one_image((), ("cat",))], cat_and(0), **lvis).metrics["ap"]
    every = measured([one_image(())], cat_and(0), **lvis).metrics["ap"]
    assert (some, every) == (1.0, pytest.approx(0.5, abs=0.01))
