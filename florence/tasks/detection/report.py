"""What is shown of a measured detector: figures, a table of classes, curves, its worst images."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from florence.data.boxes import AnnotatedImage
from florence.evaluation.context import Results
from florence.tasks.detection.box_metrics import BoxResult, FoundBoxes
from florence.tasks.detection.drawing import TRUTH, Labelled, colour_of, drawn, grid

WORST = 16
COLUMNS = 4
CELL = 320
SHOWN = 0.3
"""Boxes of lower scores are not drawn: a detector's many faint ones would hide the picture."""
MOST_CURVES = 10


def box_results(
    name: str,
    image_of: Callable[[int], tuple[Image.Image, AnnotatedImage]],
    images: Sequence[AnnotatedImage],
    found: Sequence[FoundBoxes],
    names: Sequence[str],
    result: BoxResult,
) -> Results:
    """Figures, tables and pictures.

    Args:
        name: of the evaluation.
        image_of: an image by number.
        images: what is in each.
        found: what was found in each.
        names: the classes by number.
        result: what was measured.
    """
    losses = [image_loss(image, each, names) for image, each in zip(images, found, strict=True)]
    worst = sorted(range(len(losses)), key=lambda number: -losses[number])[:WORST]
    pictures = [
        _compared(image_of(number)[0], images[number], found[number], names) for number in worst
    ]
    metric, value = next(iter(result.metrics.items()), ("ap", float("nan")))
    title = f"{name}: {metric} {100 * value:.1f} % of {len(images)} images"
    return Results(
        metrics=dict(result.metrics),
        tables={"classes": _class_table(images, names, result)},
        pictures={
            "precision-recall": precision_recall_picture(result, names, title=title),
            "worst": grid(pictures, columns=COLUMNS, cell=CELL),
        },
    )


def image_loss(image: AnnotatedImage, found: FoundBoxes, names: Sequence[str]) -> float:
    """How wrong a detector is about an image: what it missed, and what it found that is not there.

    Every object costs 1 less the score of the box that finds it: the best of its class that
    overlaps it by half and found no other. Every other box costs its score, but for those within
    crowds of its class.
    """
    place = {name: number for number, name in enumerate(names)}
    objects = [box for box in image.boxes if box.category in place]
    corners = np.array([box.bbox for box in objects], np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    labels = np.array([place[box.category] for box in objects], np.int64)
    crowd = np.array([box.crowd for box in objects], np.bool_)
    left = set(np.flatnonzero(~crowd).tolist())
    total = float(len(left))
    for number in np.argsort(-found.scores, kind="stable").tolist():
        overlap = _overlaps(found.boxes[number], corners)
        same = labels == found.labels[number]
        score = float(found.scores[number])
        usable = [row for row in left if same[row] and overlap[row] >= 0.5]
        if usable:
            left.remove(max(usable, key=lambda row: (overlap[row], -row)))
            total -= score
        elif not (same & crowd & (_covered(found.boxes[number], corners) >= 0.5)).any():
            total += score
    return total


def precision_recall_picture(result: BoxResult, names: Sequence[str], *, title: str) -> bytes:
    """Precision over recall at IoU 0.5, of the classes with the lowest AP and of all together.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(8, 6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    recall = np.linspace(0, 1, result.precision.shape[1])
    at_half = result.precision[0]
    order = np.argsort(np.nan_to_num(result.average_precision_50, nan=2.0))
    for number in order[:MOST_CURVES].tolist():
        value = result.average_precision_50[number]
        if not np.isnan(value):
            label = f"{_shortened(names[number])} {100 * value:.1f} %"
            axes.plot(recall, at_half[:, number], linewidth=1, label=label)
    is_there = ~np.isnan(at_half).all(axis=0)
    if is_there.any():
        mean = np.nanmean(at_half[:, is_there], axis=1)
        axes.plot(
            recall, mean, color="black", linewidth=2.5, label=f"all {100 * mean.mean():.1f} %"
        )
        axes.legend(fontsize=8, title="AP at IoU 0.5")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.set_title(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _class_table(
    images: Sequence[AnnotatedImage], names: Sequence[str], result: BoxResult
) -> list[dict[str, Any]]:
    boxes, holding = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for image in images:
        counted = [box.category for box in image.boxes if not box.crowd and box.category in boxes]
        for category in counted:
            boxes[category] += 1
        for category in set(counted):
            holding[category] += 1
    return [
        {
            "class": label,
            "images": holding[label],
            "boxes": boxes[label],
            "ap": _or_none(result.average_precision[number]),
            "ap50": _or_none(result.average_precision_50[number]),
        }
        for number, label in enumerate(names)
    ]


def _compared(
    image: Image.Image, truth: AnnotatedImage, found: FoundBoxes, names: Sequence[str]
) -> Image.Image:
    """An image with the truth in yellow and what was found over it, in the classes' colours."""
    boxes = [
        Labelled((x, y, x + width, y + height), "crowd" if box.crowd else box.category, TRUTH)
        for box in truth.boxes
        for x, y, width, height in [box.bbox]
    ]
    for number in np.argsort(found.scores, kind="stable").tolist():
        score = float(found.scores[number])
        if score >= SHOWN:
            label = names[int(found.labels[number])]
            x1, y1, x2, y2 = found.boxes[number].tolist()
            boxes.append(
                Labelled((x1, y1, x2, y2), f"{label} {score:.2f}", colour_of(label, names))
            )
    return drawn(image, boxes)


def _overlaps(box: NDArray[np.float32], others: NDArray[np.float64]) -> NDArray[np.float64]:
    shared = _shared(box, others)
    sizes = (box[2] - box[0]) * (box[3] - box[1]) + _areas(others)
    return np.asarray(shared / np.maximum(sizes - shared, 1e-9), np.float64)


def _covered(box: NDArray[np.float32], regions: NDArray[np.float64]) -> NDArray[np.float64]:
    return _shared(box, regions) / max(float((box[2] - box[0]) * (box[3] - box[1])), 1e-9)


def _shared(box: NDArray[np.float32], others: NDArray[np.float64]) -> NDArray[np.float64]:
    width = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    height = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    return np.asarray(np.clip(width, 0, None) * np.clip(height, 0, None), np.float64)


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return result


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _shortened(name: str) -> str:
    # "$" starts a formula in matplotlib, and a class name may well hold one.
    name = name.replace("$", r"\$")
    return name if len(name) <= 28 else name[:27] + "…"
