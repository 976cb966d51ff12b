"""Average precision of boxes by the field's own protocols, through faster-coco-eval.

COCO (arXiv 1405.0312) and LVIS (arXiv 1908.03195). Figures are those of pycocotools and of LVIS's
own code; a test compares them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from florence.config.detection import BoxMetric
from florence.data.boxes import AnnotatedImage
from florence.data.vocabularies import Vocabularies, all_names
from florence.errors import ConfigurationError

SIZES = ("all", "small", "medium", "large")
"""Areas of objects by which COCO averages: below 32², below 96², and above, in pixels."""
FREQUENCIES = {"r": "apRare", "c": "apCommon", "f": "apFrequent"}
NOT_THERE = -1.0
"""What the protocol says where there is nothing to find, of a size, say."""


@dataclass(frozen=True)
class FoundBoxes:
    """What a detector found in one image, in numpy: N boxes.

    Attributes:
        boxes: float ``(N, 4)``, x1 y1 x2 y2 in pixels of the stored image.
        scores: float ``(N,)``.
        labels: int ``(N,)``, places in the list of names that is measured.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class BoxResult:
    """Figures of a detector on a data set.

    Attributes:
        metrics: fractions of 1 by name, the one that counts first; those of which there is nothing
            to measure are left out.
        average_precision: by class, over all IoU thresholds; NaN without objects.
        average_precision_50: by class, at IoU 0.5.
        precision: ``(10, 101, K)``: by IoU threshold, recall and class; NaN without objects.
    """

    metrics: Mapping[str, float]
    average_precision: NDArray[np.float64]
    average_precision_50: NDArray[np.float64]
    precision: NDArray[np.float64]


def measure(
    images: Sequence[AnnotatedImage],
    found: Sequence[FoundBoxes],
    names: Sequence[str],
    vocabularies: Vocabularies,
    *,
    metric: BoxMetric,
    max_detections: int,
) -> BoxResult:
    """Compare boxes with the truth.

    Args:
        images: what is in each.
        found: what was found in each.
        names: the classes that are measured, by number.
        vocabularies: of the data; decide frequencies, and which names an image was searched for.
        metric: the protocol.
        max_detections: boxes of an image that count, the best ones.

    Raises:
        ConfigurationError: faster-coco-eval is not installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ConfigurationError(
            "measuring boxes needs faster-coco-eval: pip install 'florence[train]'"
        ) from error
    lvis = metric is BoxMetric.LVIS
    truth = ground_truth(images, names, vocabularies, federated=lvis)
    # The library writes into what it is given.
    gt = COCO(copy.deepcopy(truth), print_function=_silent)
    results = coco_results(found)
    nothing = {**truth, "annotations": []}
    dt = gt.loadRes(results) if results else COCO(nothing, print_function=_silent)
    evaluation = COCOeval_faster(
        gt, dt, "bbox", print_function=_silent, extra_calc=False, lvis_style=lvis
    )
    evaluation.params.maxDets = [max_detections] if lvis else [1, 10, max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    precision, recall = (_known(evaluation.eval[key]) for key in ("precision", "recall"))
    known = _frequencies(vocabularies)
    frequencies = [known.get(name, "f") for name in names] if lvis else []
    return BoxResult(
        _metrics(precision, recall, metric, frequencies),
        _over_classes(precision[:, :, :, 0, -1]),
        _over_classes(precision[:1, :, :, 0, -1]),
        precision[:, :, :, 0, -1],
    )


def ground_truth(
    images: Sequence[AnnotatedImage],
    names: Sequence[str],
    vocabularies: Vocabularies,
    *,
    federated: bool,
) -> dict[str, Any]:
    """Records as COCO's annotations, or LVIS's where images were searched for some names only."""
    numbers = {name: number + 1 for number, name in enumerate(names)}
    frequency = _frequencies(vocabularies)
    annotations: list[dict[str, Any]] = []
    for row, image in enumerate(images):
        for box in image.boxes:
            if box.category not in numbers:
                continue
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": row + 1,
                    "category_id": numbers[box.category],
                    "bbox": list(box.bbox),
                    "area": box.bbox[2] * box.bbox[3] if box.area is None else box.area,
                    "iscrowd": int(box.crowd),
                }
            )
    categories: list[dict[str, Any]] = [
        {"id": number, "name": name} for name, number in numbers.items()
    ]
    rows: list[dict[str, Any]] = [
        {"id": row + 1, "width": image.width, "height": image.height}
        for row, image in enumerate(images)
    ]
    if federated:
        for category in categories:
            category["frequency"] = frequency.get(category["name"], "f")
        for entry, image in zip(rows, images, strict=True):
            entry["neg_category_ids"] = _ids(image.negatives or (), numbers)
            entry["not_exhaustive_category_ids"] = _ids(image.not_exhaustive, numbers)
    return {"info": {}, "images": rows, "annotations": annotations, "categories": categories}


def coco_results(found: Sequence[FoundBoxes]) -> list[dict[str, Any]]:
    """Boxes as COCO's list of results; images count from 1 in their order, classes too."""
    results = []
    for row, each in enumerate(found):
        for box, score, label in zip(
            each.boxes.tolist(), each.scores.tolist(), each.labels.tolist(), strict=True
        ):
            x1, y1, x2, y2 = box
            results.append(
                {
                    "image_id": row + 1,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": score,
                }
            )
    return results


def measured_names(images: Sequence[AnnotatedImage], vocabularies: Vocabularies) -> tuple[str, ...]:
    """The names that a data set has boxes of, or could have."""
    named = dict.fromkeys(all_names(vocabularies))
    named |= dict.fromkeys(box.category for image in images for box in image.boxes)
    return tuple(named)


def _metrics(
    precision: NDArray[np.float64],
    recall: NDArray[np.float64],
    metric: BoxMetric,
    frequencies: Sequence[str],
) -> dict[str, float]:
    """The benchmark's figures, of which there is something to measure.

    Args:
        precision: ``(10, 101, K, 4, M)``: IoU, recall, class, size, most detections.
        recall: ``(10, K, 4, M)``.
        frequencies: of each class, where the benchmark tells them apart.
    """
    ap = precision[..., -1]
    figures = {"ap": ap[:, :, :, 0], "ap50": ap[0, :, :, 0], "ap75": ap[5, :, :, 0]}
    figures |= {f"ap{size.title()}": ap[..., n] for n, size in enumerate(SIZES) if n}
    if frequencies:
        for letter, name in FREQUENCIES.items():
            own = [number for number, each in enumerate(frequencies) if each == letter]
            figures[name] = ap[:, :, own, 0]
    else:
        for number, name in enumerate(("ar1", "ar10", "ar100")):
            figures[name] = recall[:, :, 0, number]
        figures |= {f"ar{size.title()}": recall[:, :, n, -1] for n, size in enumerate(SIZES) if n}
    if metric is BoxMetric.AP50:
        figures = {"ap50": figures.pop("ap50"), **figures}
    return {
        name: float(np.nanmean(values))
        for name, values in figures.items()
        if not np.isnan(values).all()
    }


def _known(values: Any) -> NDArray[np.float64]:
    """With NaN where the protocol says that there is nothing to find."""
    array = np.asarray(values, np.float64)
    return np.where(array > NOT_THERE, array, np.nan)


def _over_classes(precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over thresholds and recalls of each class; NaN without objects."""
    is_there = ~np.isnan(precision).all(axis=(0, 1))
    means = np.full(precision.shape[-1], np.nan)
    means[is_there] = np.nanmean(precision[:, :, is_there], axis=(0, 1))
    return means


def _frequencies(vocabularies: Vocabularies) -> dict[str, str]:
    return {
        name: frequency
        for vocabulary in vocabularies.values()
        if vocabulary.frequencies is not None
        for name, frequency in zip(vocabulary.names, vocabulary.frequencies, strict=True)
    }


def _ids(names: Sequence[str], numbers: Mapping[str, int]) -> list[int]:
    return [numbers[name] for name in names if name in numbers]


def _silent(*_: object) -> None:
    """What the library would print."""
