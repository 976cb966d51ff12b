from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from florence.data.boxes import AnnotatedImage, Annotation
from florence.tasks.detection.box_metrics import FoundBoxes
from florence.tasks.detection.report import CELL, COLUMNS, WORST, box_results, image_loss
from tests.florence.tasks.detection.test_box_metrics import NAMES, found_in, measured, truth


def one(*boxes: Annotation) -> AnnotatedImage:
    return AnnotatedImage(image_id=0, width=99, height=99, source="x", boxes=boxes)


def found(*rows: tuple[float, float, float, float, float, int]) -> FoundBoxes:
    values = np.array(rows, np.float64).reshape(-1, 6)
    return FoundBoxes(
        values[:, :4].astype(np.float32), values[:, 4].astype(np.float32), values[:, 5].astype(int)
    )


CAT = Annotation(bbox=(10.0, 10.0, 40.0, 40.0), category="cat")
CROWD = Annotation(bbox=(10.0, 10.0, 80.0, 80.0), category="cat", crowd=True)


@pytest.mark.parametrize(
    ("image", "boxes", "loss"),
    [
        (one(CAT), found(), 1.0),
        (one(CAT), found((10, 10, 50, 50, 1.0, 0)), 0.0),
        (one(CAT), found((10, 10, 50, 50, 0.75, 0)), 0.25),
        (one(CAT), found((10, 10, 50, 50, 0.75, 1)), 1.75),
        (one(CAT), found((10, 10, 50, 50, 0.75, 0), (10, 10, 50, 50, 0.5, 0)), 0.75),
        (one(CAT), found((70, 70, 90, 90, 0.5, 0)), 1.5),
        (one(CROWD), found((12, 12, 30, 30, 0.5, 0)), 0.0),
        (one(CROWD), found((12, 12, 30, 30, 0.5, 1)), 0.5),
        (one(), found(), 0.0),
    ],
)
def test_the_loss_of_an_image_is_what_was_missed_and_invented(
    image: AnnotatedImage, boxes: FoundBoxes, loss: float
) -> None:
    assert image_loss(image, boxes, NAMES) == pytest.approx(loss)


def test_the_worst_images_and_every_class_are_reported() -> None:
    images = truth(20)
    boxes = found_in(images)
    asked: list[int] = []

    def image_of(number: int) -> tuple[Image.Image, AnnotatedImage]:
        asked.append(number)
        return Image.new("RGB", (500, 500)), images[number]

    result = box_results("held-out", image_of, images, boxes, NAMES, measured(images, boxes))
    losses = [image_loss(i, f, NAMES) for i, f in zip(images, boxes, strict=True)]
    assert len(asked) == WORST
    left = [loss for number, loss in enumerate(losses) if number not in asked]
    assert min(losses[number] for number in asked) >= max(left)
    worst = Image.open(io.BytesIO(result.pictures["worst"]))
    assert worst.size == (COLUMNS * CELL, WORST // COLUMNS * CELL)
    rows = result.tables["classes"]
    assert [row["class"] for row in rows] == list(NAMES)
    counted = [box for image in images for box in image.boxes if not box.crowd]
    assert sum(row["boxes"] for row in rows) == len(counted)
    assert all(0 <= row["ap"] <= row["ap50"] <= 1 for row in rows)
    curves = np.asarray(Image.open(io.BytesIO(result.pictures["precision-recall"])).convert("L"))
    assert (curves < 128).any()
