"""A detector's answer in other forms: COCO's results, and a picture. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image


def coco_results(name: str, answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The boxes of an answer as COCO's results: one entry a box, x, y, width and height in pixels.

    ``category_id`` counts from 1 in the order of the model's labels, as COCO's own does; the name
    stands beside it.
    """
    results = []
    for box in answer["boxes"]:
        x1, y1, x2, y2 = box["box"]
        results.append(
            {
                "image_id": name,
                "category_id": box["class"] + 1,
                "category": box["label"],
                "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
                "score": box["score"],
            }
        )
    return results


def picture(image: Image.Image, answer: Mapping[str, Any]) -> Image.Image:
    """The image with the answer's boxes, the best on top."""
    from florence.tasks.detection.drawing import COLOURS, Labelled, drawn

    boxes = [
        Labelled(
            tuple(box["box"]),
            f"{box['label']} {box['score']:.2f}",
            COLOURS[box["class"] % len(COLOURS)],
        )
        for box in reversed(answer["boxes"])
    ]
    return drawn(image, boxes)
