"""The modes that train both towers: classes as texts, and images with captions."""

from __future__ import annotations

from functools import cached_property

from florence.config import Evaluate, RetrievalLabel
from florence.data.captions import CaptionReader
from florence.data.class_texts import ClassTextReader
from florence.data.pairs import PairReader
from florence.data.shards import Need, ShardSet
from florence.evaluation.prompts import load_prompts
from florence.models.stored import ModelCard
from florence.stages.context import StageContext
from florence.stages.training_data import open_training_shards
from florence.tasks.contrastive.training import ContrastiveTraining
from florence.tasks.finetune.classes import classes_of_shards
from florence.tasks.finetune.held_out import evaluations
from florence.tasks.finetune.settings import Finetune


class ClassTextTraining(ContrastiveTraining):
    """Mode contrastive; see :class:`florence.tasks.task.Task`."""

    def __init__(self, settings: Finetune, context: StageContext, card: ModelCard | None) -> None:
        assert settings.prompts is not None
        templates = load_prompts(settings.prompts, context.s3).templates
        super().__init__(settings, context, card, loss=settings.loss, templates=templates)
        self._finetune = settings

    def open_shards(self) -> ShardSet:
        """Images with a class."""
        return open_training_shards(self._context, self._finetune.data, need=Need.CLASS)

    def reader(self, shards: ShardSet) -> PairReader:
        """The class's name in a template; the label is the class."""
        settings = self._finetune
        classes = classes_of_shards(self._context, settings, shards)
        return ClassTextReader(
            names=classes.names,
            numbers=classes.numbers,
            templates=self._templates,
            resolution=settings.resolution,
            augmentation=settings.augmentation,
            context=self._context.architecture.text.context,
        )

    def evaluations(self) -> Evaluate | None:
        """Zero-shot classification with the same prompts, unless others are named."""
        return self._evaluations

    @cached_property
    def _evaluations(self) -> Evaluate | None:
        return evaluations(self._context, self._finetune)


class CaptionTraining(ContrastiveTraining):
    """Mode retrieval; see :class:`florence.tasks.task.Task`."""

    def __init__(self, settings: Finetune, context: StageContext, card: ModelCard | None) -> None:
        # No text gets a template: the model's card keeps those it was trained with before.
        templates = card.templates if card is not None else ()
        super().__init__(settings, context, card, loss=settings.loss, templates=templates)
        self._finetune = settings

    def open_shards(self) -> ShardSet:
        """Images with a text."""
        return open_training_shards(self._context, self._finetune.data)

    def reader(self, shards: ShardSet) -> PairReader:
        """One of an image's captions, drawn every epoch."""
        settings = self._finetune
        return CaptionReader(
            by_image=settings.pairs.label is RetrievalLabel.IMAGE,
            captions_per_image=settings.pairs.captions_per_image,
            resolution=settings.resolution,
            augmentation=settings.augmentation,
            context=self._context.architecture.text.context,
        )

    def evaluations(self) -> Evaluate | None:
        """Retrieval both ways, unless others are named."""
        return self._evaluations

    @cached_property
    def _evaluations(self) -> Evaluate | None:
        return evaluations(self._context, self._finetune)
