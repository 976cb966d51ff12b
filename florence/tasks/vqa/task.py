"""Learning to answer questions about images: a vocabulary of answers, soft targets, BCE."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from florence.config import Evaluate
from florence.config.progress import StageProgress
from florence.data.questions import Listed, QuestionSet, list_questions
from florence.data.shards import Need
from florence.data.stream import ShardStream
from florence.distributed.objective import Loss, Model
from florence.errors import DataError
from florence.models.card import ModelCard
from florence.models.stored import StoredModel, load_tower
from florence.models.vision_language import BuildOptions, VisionLanguage
from florence.stages.context import StageContext
from florence.stages.training_data import imported, open_training_shards, training_stream
from florence.tasks.vision_language.training import VisionLanguageTraining
from florence.tasks.vqa.data import QuestionBatch, QuestionReader
from florence.tasks.vqa.model import QuestionModel
from florence.tasks.vqa.settings import Vqa
from florence.text.answers import majority, vocabulary_of


class QuestionObjective:
    """Binary cross-entropy of each answer with its score, summed over answers: METER's loss.

    The mean over samples. Metric: ``vqa_score``, the mean score of the most probable answer.
    """

    coupled = False

    def __init__(self, answers: int) -> None:
        self._answers = answers

    def prepare(self, batch: QuestionBatch) -> int:
        """The rank's samples, over which the loss is a mean."""
        return len(batch)

    def outputs(self, model: Model, chunk: QuestionBatch) -> tuple[Tensor, ...]:
        """Logits (b, A)."""
        return (model(chunk.images, chunk.input_ids, chunk.lengths),)

    def loss(self, outputs: tuple[Tensor, ...], batch: QuestionBatch, prepared: int) -> Loss:
        """The chunk's part of the mean."""
        logits = outputs[0].float()
        targets = batch.targets(self._answers)
        value = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / prepared
        with torch.no_grad():
            best = logits.argmax(dim=1, keepdim=True)
            found = targets.gather(1, best).sum() / prepared
        return Loss(value, {"vqa_score": found})


class VqaTask(VisionLanguageTraining):
    """See :class:`florence.tasks.task.Task`."""

    task = "vqa"

    def __init__(self, settings: Vqa, context: StageContext, card: ModelCard | None) -> None:
        super().__init__(settings, context, card)
        self._vqa = settings
        # A model that answers already keeps its answers: they are its head's outputs.
        self._answers = card.labels if card is not None and card.task == self.task else None

    @cached_property
    def _listed(self) -> tuple[QuestionSet, Listed]:
        context = self._context
        images = open_training_shards(context, self._vqa.data, need=Need.IMAGE)

        def tell(done: int, total: int) -> None:
            context.report(StageProgress(phase="index", phase_fraction=done / total))

        listed = list_questions(images, majority, share=context.world.on_first, on_images=tell)
        return QuestionSet(images, listed.counts), listed

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The answers, by output of the head; collective at the first call.

        Raises:
            DataError: no answer is frequent enough.
        """
        if self._answers is not None:
            return self._answers
        majorities = self._listed[1].majorities
        least = self._vqa.least_answers
        repeated = (answer for answer, count in majorities.items() for _ in range(count))
        answers = vocabulary_of(repeated, least)
        if not answers:
            raise DataError(
                f"{self._vqa.data}: no answer is the majority's of {least} questions: give "
                "annotations, or a smaller leastAnswers"
            )
        return answers

    def stream(self) -> ShardStream[Any, QuestionBatch]:
        """Questions, each with its image."""
        settings = self._vqa
        reader = QuestionReader(
            images=self.images,
            coder=self.shape.coder,
            text_length=settings.text_length,
            vocabulary=self.labels,
        )
        return training_stream(self._context, settings, self._listed[0], reader)

    def module(self, options: BuildOptions) -> VisionLanguage:
        """See :class:`VisionLanguageTraining`."""
        return QuestionModel(self._context.architecture, self.shape, options, len(self.labels))

    def take_head(self, model: VisionLanguage, source: StoredModel) -> None:
        """That of a model with the same answers."""
        if source.card.task == self.task and source.card.labels == self.labels:
            fits = source.card.head is not None and source.card.head.get("fusion")
            if fits == self.shape.fusion.to_card():
                load_tower(model.head, source, "head")

    def objective(self) -> QuestionObjective:
        """See :class:`QuestionObjective`."""
        return QuestionObjective(len(self.labels))

    def evaluations(self) -> Evaluate | None:
        """Accuracy on held-out questions, unless others are named."""
        return self._evaluations

    @cached_property
    def _evaluations(self) -> Evaluate | None:
        settings = self._vqa
        if settings.validation is None:
            return settings.evaluation
        return settings.evaluations(imported(self._context, settings.validation))

    def results(self, state: Mapping[str, Tensor]) -> Mapping[str, float]:
        """How many answers there are."""
        return {"answers": float(len(self.labels))}
