"""Whether images and texts belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from florence.models.stored import StoredModel
from florence.tasks.predicting import BATCH, image_batches, image_of, ranked
from florence.tasks.vision_language.attention import attention_picture
from florence.tasks.vision_language.texts import coded_texts, text_of
from florence.tasks.vlp import VLP
from florence.tasks.vlp.model import pretraining_model_of

MATCH, NO_MATCH = "match", "no match"


class VlpPredictor:
    """See :class:`florence.tasks.task.Predictor`."""

    inputs = VLP.inputs

    def __init__(self, stored: StoredModel, device: torch.device) -> None:
        self.card = stored.card
        self.module = pretraining_model_of(stored, device)
        self._device = device

    @torch.no_grad()
    def predict(
        self, rows: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Per row text, label (``match`` or ``no match``), probability and both probabilities."""
        texts = [text_of(row, "text", number) for number, row in enumerate(rows)]
        answers: list[dict[str, Any]] = []
        batches = image_batches(rows, self.card, batch_size=BATCH)
        for start, images in zip(range(0, len(rows), BATCH), batches, strict=True):
            said = texts[start : start + len(images)]
            ids, lengths = coded_texts(said, self.module.shape, self._device)
            matches = self.module.match(images.to(self._device), ids, lengths).cpu()
            for text, match in zip(said, matches, strict=True):
                found = ranked((MATCH, NO_MATCH), torch.stack([match, 1 - match]))
                answers.append({"text": text, **found})
        return answers

    def attention(self, row: Mapping[str, Any], answer: Mapping[str, Any]) -> bytes:
        """A PNG of where the words of a row's text look in its image."""
        text = text_of(row, "text", 0)
        title = f"{text} {answer['label']}"
        return attention_picture(self.module, self.card, image_of(row, 0), text, title=title)
