"""Answers to questions about images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch

from florence.models.stored import StoredModel
from florence.tasks.predicting import BATCH, BadRowError, image_batches, image_of, ranked
from florence.tasks.vision_language.attention import attention_picture
from florence.tasks.vision_language.texts import coded_texts, text_of
from florence.tasks.vqa import VQA
from florence.tasks.vqa.model import question_model_of


class VqaPredictor:
    """See :class:`florence.tasks.task.Predictor`."""

    inputs = VQA.inputs

    def __init__(self, stored: StoredModel, device: torch.device) -> None:
        self.card = stored.card
        self.module = question_model_of(stored, device)
        self._device = device

    @torch.no_grad()
    def predict(
        self, rows: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Per row question, label, probability, and probabilities of the ``top`` answers.

        Each answer has a probability of its own, that annotators take it for right: they do not
        sum to 1.
        """
        top = _top(parameters)
        questions = [text_of(row, "question", number) for number, row in enumerate(rows)]
        answers: list[dict[str, Any]] = []
        batches = image_batches(rows, self.card, batch_size=BATCH)
        for start, images in zip(range(0, len(rows), BATCH), batches, strict=True):
            asked = questions[start : start + len(images)]
            ids, lengths = coded_texts(asked, self.module.shape, self._device)
            logits = self.module(images.to(self._device), ids, lengths).float().cpu()
            for question, row in zip(asked, logits.sigmoid(), strict=True):
                best = row.topk(min(top, len(self.card.labels))).indices.tolist()
                found = ranked([self.card.labels[i] for i in best], row[best])
                answers.append({"question": question, **found})
        return answers

    def attention(self, row: Mapping[str, Any], answer: Mapping[str, Any]) -> bytes:
        """A PNG of where the words of a row's text look in its image."""
        text = text_of(row, "question", 0)
        title = f"{text} {answer['label']}"
        return attention_picture(self.module, self.card, image_of(row, 0), text, title=title)


def _top(parameters: Mapping[str, Any]) -> int:
    top = parameters.get("top")
    top = VQA.inputs.parameters[0].default if top is None else top
    if isinstance(top, bool) or not isinstance(top, Integral) or top < 1:
        raise BadRowError(f"top must be a whole number of at least 1, not {top!r}")
    return int(top)
