"""Contrastive pretraining: image-text pairs in, a two-tower model out."""

from __future__ import annotations

from florence.data.pairs import PairReader
from florence.data.shards import ShardSet
from florence.models.stored import ModelCard
from florence.stages.context import StageContext
from florence.stages.training_data import open_training_shards
from florence.tasks.contrastive.training import ContrastiveTraining
from florence.tasks.pretrain.settings import Pretrain
from florence.text.templates import load_templates


class PretrainTask(ContrastiveTraining):
    """See :class:`florence.tasks.task.Task`."""

    def __init__(self, settings: Pretrain, context: StageContext, card: ModelCard | None) -> None:
        super().__init__(
            settings,
            context,
            card,
            loss=settings.loss,
            templates=load_templates(settings.text.templates, s3=context.s3),
        )
        self._pretrain = settings

    def open_shards(self) -> ShardSet:
        """Images with a text."""
        settings = self._pretrain
        return open_training_shards(
            self._context,
            settings.data,
            text=settings.text,
            exclude_short=settings.exclude_augmented,
        )

    def reader(self, shards: ShardSet) -> PairReader:
        """Short texts get a template."""
        settings = self._pretrain
        return PairReader(
            resolution=settings.resolution,
            augmentation=settings.augmentation,
            templates=self._templates,
            context=self._context.architecture.text.context,
        )
