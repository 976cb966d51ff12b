"""Mode head: a classifier on the image tower, trained with cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from florence.config import Evaluate
from florence.data.classes import ClassBatch, ClassReader
from florence.data.shards import Need, ShardSet
from florence.data.stream import ShardStream
from florence.distributed.parameter_rules import ParameterRule
from florence.losses.cross_entropy import CrossEntropyObjective
from florence.models.card import inherited_window
from florence.models.classifier import CLASSIFICATION, HeadShape, build_classifier
from florence.models.compilation import compile_blocks
from florence.models.stored import ModelCard, StoredModel, load_tower
from florence.models.two_tower import no_decay_names
from florence.stages.context import StageContext
from florence.stages.training_data import open_training_shards, training_stream
from florence.tasks.finetune.classes import Classes, classes_of_shards
from florence.tasks.finetune.held_out import evaluations
from florence.tasks.finetune.settings import Finetune, HeadKind
from florence.tasks.layer_decay import layer_decay_rules


class HeadTraining:
    """See :class:`florence.tasks.task.Task`."""

    def __init__(self, settings: Finetune, context: StageContext, card: ModelCard | None) -> None:
        self._settings = settings
        self._context = context
        self._window = inherited_window(settings.window, card, context.architecture)

    @cached_property
    def shards(self) -> ShardSet:
        """Images with a class; collective at the first call."""
        return open_training_shards(self._context, self._settings.data, need=Need.CLASS)

    @cached_property
    def classes(self) -> Classes:
        """What the head tells apart; collective at the first call."""
        return classes_of_shards(self._context, self._settings, self.shards)

    @property
    def shape(self) -> HeadShape:
        """Of the head."""
        head, width = self._settings.head, 8 * self._context.architecture.image.width
        return HeadShape(
            classes=len(self.classes.names),
            hidden=(head.hidden or width) if head.kind is HeadKind.MLP else None,
            dropout=head.dropout,
        )

    def stream(self) -> ShardStream[Any, ClassBatch]:
        """Images and labels."""
        settings = self._settings
        reader = ClassReader(
            resolution=settings.resolution,
            augmentation=settings.augmentation,
            numbers=self.classes.numbers,
            operations=settings.head.rand_augment.operations,
            magnitude=settings.head.rand_augment.magnitude,
            mixup=settings.head.mixup,
        )
        return training_stream(self._context, settings, self.shards, reader)

    def model(self, source: StoredModel | None, *, init: bool) -> nn.Module:
        """The tower of ``source``, and its head too where that has the same shape and labels."""
        settings = self._settings
        model = build_classifier(
            self._context.architecture,
            self.shape,
            seed=settings.seed,
            window=self._window,
            checkpointing=settings.activation_checkpointing,
            drop_path=settings.drop_path,
            frozen_tower=settings.head.frozen_tower,
            init=init,
        )
        if source is not None:
            load_tower(model.image, source, "image")
            if source.card.labels == self.classes.names and source.card.head == self._head():
                load_tower(model.head, source, "head")
        if settings.compile:
            compile_blocks(model)
        return model

    def rules(self, model: nn.Module) -> Sequence[ParameterRule]:
        """No decay of vectors and tables; the tower's rates by layer, or none; the head's scale."""
        head = self._settings.head
        frozen = "image.*" if head.frozen_tower else "image.projection.*"
        return [
            *(ParameterRule(pattern=name, weight_decay=0.0) for name in no_decay_names(model)),
            *layer_decay_rules(model, self._settings.optimizer.layer_decay),
            ParameterRule(pattern="head.*", lr_scale=head.lr_scale),
            ParameterRule(pattern=frozen, frozen=True),
        ]

    def objective(self) -> CrossEntropyObjective:
        """Cross-entropy with smoothed labels."""
        return CrossEntropyObjective(self._settings.head.label_smoothing)

    def card(self) -> ModelCard:
        """A classifier with the names of its classes."""
        settings = self._settings
        return ModelCard(
            task=CLASSIFICATION,
            architecture=self._context.architecture,
            window=self._window,
            resolution=settings.resolution,
            mean=settings.augmentation.mean,
            std=settings.augmentation.std,
            head=self._head(),
            labels=self.classes.names,
        )

    def evaluations(self) -> Evaluate | None:
        """Classification of held-out images, unless others are named."""
        return self._evaluations

    @cached_property
    def _evaluations(self) -> Evaluate | None:
        return evaluations(self._context, self._settings)

    def results(self, state: Mapping[str, Tensor]) -> Mapping[str, float]:
        """How many classes there are."""
        return {"classes": float(len(self.classes.names))}

    def _head(self) -> dict[str, bool | int | float | str | None]:
        return self.shape.to_card()
