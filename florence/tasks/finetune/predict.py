"""Classification with a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch

from florence.evaluation.embed import model_outputs
from florence.models.classifier import HeadShape, classifier_of
from florence.models.stored import StoredModel
from florence.tasks.finetune import CLASSIFICATION
from florence.tasks.predicting import BadRowError, image_batches, ranked


class ClassificationPredictor:
    """See :class:`florence.tasks.task.Predictor`."""

    inputs = CLASSIFICATION.inputs

    def __init__(self, stored: StoredModel, device: torch.device) -> None:
        self.card = stored.card
        self.module = classifier_of(stored, device=str(device))
        shape = HeadShape.of(stored.card, stored.uri)
        self._exclusive = shape.exclusive
        self._labels = stored.card.labels or tuple(str(n) for n in range(shape.classes))

    def predict(
        self, rows: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Per row the most probable label, its probability, and those of the ``top`` labels.

        Probabilities sum to 1 over all labels where an image has one class; where it may have
        several, each label has its own.
        """
        top = parameters.get("top")
        top = CLASSIFICATION.inputs.parameters[0].default if top is None else top
        if isinstance(top, bool) or not isinstance(top, Integral) or top < 1:
            raise BadRowError(f"top must be a whole number of at least 1, not {top!r}")
        logits = model_outputs(self.module, self.module, image_batches(rows, self.card))
        answers = []
        for row in logits:
            probabilities = row.softmax(dim=0) if self._exclusive else row.sigmoid()
            best = probabilities.topk(min(int(top), len(self._labels))).indices.tolist()
            answers.append(ranked([self._labels[i] for i in best], probabilities[best]))
        return answers
