"""A fusion of image and question with scores of answers."""

from __future__ import annotations

import torch
from torch import Tensor

from florence.config import Architecture
from florence.models.card import ModelCard
from florence.models.fusion import AnswerHead
from florence.models.stored import StoredModel
from florence.models.vision_language import (
    BuildOptions,
    VisionLanguage,
    VisionLanguageShape,
    stored_model,
)


class QuestionModel(VisionLanguage):
    """Images and questions to logits of answers, each answer's own."""

    def __init__(
        self,
        architecture: Architecture,
        shape: VisionLanguageShape,
        options: BuildOptions,
        answers: int,
    ) -> None:
        head = AnswerHead(2 * shape.fusion.width, answers)
        super().__init__(architecture, shape, options, head)

    def forward(self, images: Tensor, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """(B, 3, H, W), (B, L) int64 and (B,) int64 to logits (B, A)."""
        fused = self.fuse(self.image_tokens(images), input_ids, lengths)
        logits: Tensor = self.head(self.pooled(fused, lengths))
        return logits


def question_model_of(stored: StoredModel, device: torch.device) -> QuestionModel:
    """The model of a stored one, ready for evaluation. Raises :class:`DataError`."""
    card: ModelCard = stored.card
    shape = VisionLanguageShape.of(card, stored.uri)
    options = BuildOptions(window=card.window)
    return stored_model(
        lambda: QuestionModel(card.architecture, shape, options, len(card.labels)), stored, device
    )
