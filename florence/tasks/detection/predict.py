"""Finding objects in images with a stored detector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from PIL import Image

from florence.config.detection import Inference
from florence.evaluation.models import inference
from florence.models.stored import StoredModel
from florence.tasks.detection import DETECTOR, ZERO_SHOT_DETECTOR
from florence.tasks.detection.decode import Detections
from florence.tasks.detection.detector import Detector, detector_of
from florence.tasks.detection.looking import Look
from florence.tasks.detection.zero_shot import BoxClassifier, classifier_of, named
from florence.tasks.predicting import BadRowError, image_of, text_list
from florence.text.templates import GAP, IMAGENET


class _Finding:
    """What both predictors share: a detector that looks at images at its own size."""

    def __init__(self, stored: StoredModel, device: torch.device) -> None:
        self.card = stored.card
        self.module: Detector = detector_of(stored, device=str(device))
        self._settings = Inference()
        self._look = Look(
            self.module,
            self.card.mean,
            self.card.std,
            self.card.resolution,
            self._settings,
        )

    def _answers(
        self,
        rows: Sequence[Mapping[str, Any]],
        threshold: float,
        find: Callable[[int, Image.Image], tuple[Detections, Sequence[str]]],
    ) -> list[dict[str, Any]]:
        answers = []
        with inference(self.module):
            for number, row in enumerate(rows):
                found, names = find(number, image_of(row, number))
                answers.append({"boxes": _listed(found.cpu(), names, threshold)})
        return answers


class DetectionPredictor(_Finding):
    """See :class:`florence.tasks.task.Predictor`."""

    inputs = DETECTOR.inputs

    def predict(
        self, rows: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Per row the boxes, best first: label, its number, score, and x1 y1 x2 y2 in pixels."""
        labels = self.card.labels

        def find(number: int, image: Image.Image) -> tuple[Detections, Sequence[str]]:
            return self._look.found(image), labels

        return self._answers(rows, _threshold(parameters), find)


class ZeroShotDetectionPredictor(_Finding):
    """See :class:`florence.tasks.task.Predictor`."""

    inputs = ZERO_SHOT_DETECTOR.inputs

    def __init__(self, stored: StoredModel, device: torch.device) -> None:
        super().__init__(stored, device)
        self._classifier = lru_cache(maxsize=32)(self._made)

    def predict(
        self, rows: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """As a detector, of the labels given; a row's own win over the parameter.

        Without labels the boxes are of anything, "object".
        """
        templates = text_list(parameters.get("templates"), "templates")
        for template in templates:
            if GAP not in template:
                raise BadRowError(f"template '{template}' has no {GAP} where the label goes")
        used = templates or self.card.templates or IMAGENET
        common = text_list(parameters.get("labels"), "labels")
        labels = [
            text_list(row.get("labels"), f"row {number}: labels") or common
            for number, row in enumerate(rows)
        ]

        def find(number: int, image: Image.Image) -> tuple[Detections, Sequence[str]]:
            own = labels[number]
            if not own:
                return self._look.found(image), ("object",)
            classifier = self._classifier(own, used)
            return named(self._look, classifier, image, self._settings), own

        return self._answers(rows, _threshold(parameters), find)

    def _made(self, labels: tuple[str, ...], templates: tuple[str, ...]) -> BoxClassifier:
        return classifier_of(self.module, self.card, labels, templates, self._settings)


def _listed(found: Detections, names: Sequence[str], threshold: float) -> list[dict[str, Any]]:
    """Boxes as JSON values, to a hundredth of a pixel."""
    return [
        {
            "label": names[label] if label < len(names) else str(label),
            "class": label,
            "score": score,
            "box": [round(value, 2) for value in box],
        }
        for box, score, label in zip(
            found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        )
        if score >= threshold
    ]


def _threshold(parameters: Mapping[str, Any]) -> float:
    value = parameters.get("threshold")
    value = DETECTOR.inputs.parameters[0].default if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise BadRowError(f"threshold must be a number between 0 and 1, not {value!r}")
    return float(value)
