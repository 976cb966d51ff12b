"""Questions about images as training reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from florence.data.augmented import AugmentedImages
from florence.data.batch import Batch
from florence.data.image_reader import Fields, ImageReader
from florence.data.questions import Question
from florence.data.shards import Sample
from florence.data.stream import Draw
from florence.data.text_batches import padded
from florence.data.transforms import Pixels
from florence.text.answers import soft_targets
from florence.text.coding import TextCoder, coded

MOST_ANSWERS = 10
"""Different answers of a question that are targets, those with the highest scores."""


@dataclass(frozen=True, kw_only=True)
class QuestionBatch(Batch):
    """Questions about images.

    Attributes:
        images: float32 ``(B, 3, R, R)``, normalised.
        input_ids: int64 ``(B, L)`` token ids.
        lengths: int64 ``(B,)``, tokens of each question.
        answers: int64 ``(B, 10)``, numbers of right answers; 0 where the score is 0.
        scores: float32 ``(B, 10)`` in [0, 1], how right each of them is.
    """

    images: torch.Tensor
    input_ids: torch.Tensor
    lengths: torch.Tensor
    answers: torch.Tensor
    scores: torch.Tensor

    def targets(self, count: int) -> torch.Tensor:
        """How right each of ``count`` answers is: float32 ``(B, count)``."""
        targets = self.scores.new_zeros(len(self), count)
        return targets.scatter_add_(1, self.answers, self.scores)


@dataclass(frozen=True)
class Asked:
    """One question: uint8 pixels (3, R, R), token ids, and scores by answer."""

    pixels: Pixels
    tokens: list[int]
    targets: Mapping[int, float]


class QuestionReader(ImageReader[Asked, QuestionBatch]):
    """Decodes images, codes questions and scores answers; see :class:`SampleReader`.

    Args:
        images: how images become pixels.
        coder: how questions become tokens.
        text_length: most tokens of a question.
        vocabulary: the answers by number.
    """

    batch_type = QuestionBatch

    def __init__(
        self,
        *,
        images: AugmentedImages,
        coder: TextCoder,
        text_length: int,
        vocabulary: Sequence[str],
    ) -> None:
        super().__init__(images)
        self.coder = coder
        self.text_length = text_length
        self.vocabulary = {answer: number for number, answer in enumerate(vocabulary)}

    def read(self, sample: Sample, chance: Draw) -> Asked:
        """See :class:`florence.data.stream.SampleReader`."""
        question = Question.of(sample.meta)
        return Asked(
            self.images.pixels(sample.image_bytes, chance),
            coded(self.coder, question.text, self.text_length),
            soft_targets(question.answers, self.vocabulary),
        )

    def fields(self, items: Sequence[Asked]) -> Fields:
        """See :class:`ImageReader`."""
        ids, lengths = padded([each.tokens for each in items], self.coder.padding, self.text_length)
        answers = np.zeros((len(items), MOST_ANSWERS), np.int64)
        scores = np.zeros((len(items), MOST_ANSWERS), np.float32)
        for row, item in enumerate(items):
            best = sorted(item.targets.items(), key=lambda each: (-each[1], each[0]))
            for column, (answer, score) in enumerate(best[:MOST_ANSWERS]):
                answers[row, column], scores[row, column] = answer, score
        return {"input_ids": ids, "lengths": lengths, "answers": answers, "scores": scores}
