"""Labelled images whose classes are those of prompts, and the tables that results of them make."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from florence.config import Metric
from florence.data.labelled import Images, LabelledImages
from florence.data.multi_label import MultiLabelImages
from florence.evaluation.class_names import class_numbers
from florence.evaluation.confusion_matrix import MOST_LABELS, confusion_picture
from florence.evaluation.context import EvaluationContext, Example, Results
from florence.evaluation.metrics import (
    ClassificationResult,
    check_labels,
    mean_average_precision_11,
)
from florence.evaluation.prompts import Prompts

log = logging.getLogger(__name__)

Pair = tuple[NDArray[np.bool_], NDArray[np.bool_]]


@dataclass(frozen=True)
class Labelled:
    """Images with one class each, numbered as in the prompts."""

    images: Images
    labels: Tensor
    """int64 ``(N,)`` in ``[0, len(prompts.classes))``."""
    prompts: Prompts


@dataclass(frozen=True)
class MultiLabelled:
    """Images with any number of classes each."""

    source: MultiLabelImages
    prompts: Prompts
    numbers: NDArray[np.int64]
    """For each class of the data its number in the prompts."""

    @property
    def images(self) -> Images:
        """The images themselves."""
        return self.source.images

    def truth(self, context: EvaluationContext) -> tuple[Tensor, Tensor]:
        """Which image has which class, and which pairs do not count: bool ``(N, C)``; collective.

        Raises:
            DataError: a sample has no labels, or wrong ones; names it.
        """
        names = self.source.class_names or self.prompts.folders or self.prompts.classes
        by_name = {name: number for number, name in enumerate(names)}

        def rows(share: Sequence[int]) -> Iterable[Pair]:
            for count, i in enumerate(share):
                if count % context.batch_size == 0:
                    context.watch(0)
                yield self.source.truth(i, by_name, len(self.numbers))

        pairs = context.gathered(len(self.source), rows)
        whole = []
        for part in zip(*pairs, strict=True):
            columns = np.zeros((len(pairs), len(self.prompts.classes)), np.bool_)
            columns[:, self.numbers] = np.stack(part)
            whole.append(torch.from_numpy(columns))
        return whole[0], whole[1]


def open_labelled(
    context: EvaluationContext, uri: str, prompts: Prompts, where: str, field: str = "prompts"
) -> Labelled:
    """Images with one class each, numbered as the prompts number them.

    Args:
        context: where ``s3://`` is.
        uri: shards or class folders.
        prompts: the classes.
        where: the evaluation, for messages.
        field: the setting that the prompts come from, for messages.

    Raises:
        ConfigurationError: the data's class names are not the prompts'.
        DataError: data is missing, or a class number names no class.
    """
    data = LabelledImages.open(uri, context.s3, **context.opening)
    labels = torch.from_numpy(data.labels)
    if data.class_names is not None:
        numbers = class_numbers(data.class_names, prompts, field=f"{where}: {field}", data=uri)
        labels = torch.from_numpy(numbers)[labels]
    check_labels(labels, len(prompts.classes))
    published = prompts.test_images
    if context.world.is_first and published not in (None, len(data)):
        log.info(
            "%s: %s has %d images; published figures are of %d", where, uri, len(data), published
        )
    return Labelled(data.images, labels, prompts)


def open_multi_labelled(
    context: EvaluationContext, uri: str, prompts: Prompts, where: str, field: str = "prompts"
) -> MultiLabelled:
    """Images with any number of classes each; as :func:`open_labelled`."""
    source = MultiLabelImages.open(uri, context.s3, **context.opening)
    numbers = np.arange(len(prompts.classes), dtype=np.int64)
    if source.class_names is not None:
        numbers = class_numbers(source.class_names, prompts, field=f"{where}: {field}", data=uri)
    return MultiLabelled(source, prompts, numbers)


def single_label_results(
    name: str, data: Labelled, result: ClassificationResult, metric: Metric, prompts: str
) -> Results:
    """Metrics, the one that counts first, the table of classes and the confusion matrix."""
    values = {
        Metric.ACCURACY: {"top1": result.top1, "top5": result.top5},
        Metric.MEAN_PER_CLASS: {"meanPerClass": result.mean_per_class},
    }
    first = values.pop(metric)
    confusion = result.confusion.numpy()
    classes = data.prompts.classes
    rows: list[dict[str, Any]] = [
        {
            "class": label,
            "images": int(row.sum()),
            "correct": int(row[index]),
            "accuracy": float(row[index] / row.sum()) if row.sum() else None,
        }
        for index, (label, row) in enumerate(zip(classes, confusion, strict=True))
    ]
    percent = 100 * next(iter(first.values()))
    kind = "" if metric is Metric.ACCURACY else " mean per class"
    title = f"{name}: {percent:.1f} %{kind} of {len(data.images)} images"
    return Results(
        metrics={key: value for group in (first, *values.values()) for key, value in group.items()},
        tables={"classes": rows, **_confusion_table(confusion, classes)},
        pictures={"confusion": confusion_picture(confusion, classes, title=title)},
        example=Example(_png(data.images), classes, prompts),
    )


def _confusion_table(
    confusion: NDArray[np.int64], classes: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """A row per true class with the counts of each prediction, where one can still read it."""
    if len(classes) > MOST_LABELS:
        return {}
    rows = [
        {"true class": label, **{name: int(n) for name, n in zip(classes, row, strict=True)}}
        for label, row in zip(classes, confusion, strict=True)
    ]
    return {"confusion": rows}


def multi_label_results(
    data: MultiLabelled, scores: Tensor, truth: Tensor, ignored: Tensor
) -> Results:
    """The 11-point mean average precision and the table of classes."""
    result = mean_average_precision_11(scores, truth, ignored)
    rows: list[dict[str, Any]] = [
        {
            "class": label,
            "images": int(truth[:, column].sum()),
            "averagePrecision": None if value != value else value,
        }
        for column, (label, value) in enumerate(
            zip(data.prompts.classes, result.average_precisions, strict=True)
        )
    ]
    return Results(metrics={"mAP11": result.mean}, tables={"classes": rows})


def _png(images: Images) -> bytes:
    buffer = io.BytesIO()
    images.image(0).save(buffer, format="PNG")
    return buffer.getvalue()
