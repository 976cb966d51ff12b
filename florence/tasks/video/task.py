"""What the modes of a video stage train, and on what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor, nn

from florence.config import Evaluate, RetrievalLabel
from florence.config.video import VideoTower
from florence.data.augmented_clips import AugmentedClips
from florence.data.clips import CaptionClipReader, ClassClipReader
from florence.data.pairs import PairBatch
from florence.data.shards import Need, ShardSet
from florence.data.stream import ShardStream
from florence.data.video.decoding import decoder
from florence.distributed.parameter_rules import ParameterRule
from florence.errors import DataError
from florence.losses.contrastive import ContrastiveObjective
from florence.losses.cross_entropy import CrossEntropyObjective
from florence.models.card import inherited_window
from florence.models.classifier import HeadShape
from florence.models.compilation import compile_blocks
from florence.models.meta import on_meta
from florence.models.stored import ModelCard, StoredModel, load_tower
from florence.models.two_tower import no_decay_names
from florence.models.video_models import (
    ACTIONS,
    VIDEO_TEXT,
    VideoTwoTower,
    build_video_classifier,
    initialise,
    load_video_tower,
    video_of,
)
from florence.stages.context import StageContext
from florence.stages.training_data import imported, open_training_shards, training_stream
from florence.tasks.layer_decay import layer_decay_rules
from florence.tasks.task import Task
from florence.tasks.video.settings import Video, VideoMode


def video_task(settings: Video, context: StageContext, card: ModelCard | None) -> Task[Any]:
    """The task of the settings' mode; see :class:`florence.tasks.task.Task`."""
    modes: dict[VideoMode, type[Any]] = {
        VideoMode.ACTIONS: ActionTraining,
        VideoMode.RETRIEVAL: VideoTextTraining,
    }
    task: Task[Any] = modes[settings.mode](settings, context, card)
    return task


class _ClipTraining:
    """What both modes share."""

    def __init__(self, settings: Video, context: StageContext, card: ModelCard | None) -> None:
        self._settings = settings
        self._context = context
        self._card = card
        window = inherited_window(None, card, context.architecture)
        # A tower of clips keeps its windows unless others are asked for.
        is_asked = settings.tower != VideoTower()
        inherited = None if card is None or is_asked else video_of(card)
        self.shape = inherited or settings.tower.shape(context.architecture.image, window)
        self._window = window

    @cached_property
    def shards(self) -> ShardSet:
        """The clips; collective at the first call."""
        return open_training_shards(self._context, self._settings.data, need=Need.VIDEO)

    def evaluations(self) -> Evaluate | None:
        """Held-out clips, unless others are named."""
        return self._evaluations

    @cached_property
    def _evaluations(self) -> Evaluate | None:
        settings = self._settings
        if settings.validation is None:
            return settings.evaluation
        return settings.evaluations(imported(self._context, settings.validation))

    def rules(self, model: nn.Module) -> list[ParameterRule]:
        """No decay of vectors, tables and positions; layer-wise rates."""
        return [
            *(ParameterRule(pattern=name, weight_decay=0.0) for name in no_decay_names(model)),
            *layer_decay_rules(model, self._settings.optimizer.layer_decay),
        ]

    def card_of(self, task: str, **fields: Any) -> ModelCard:
        """A card with what every model of clips has."""
        settings = self._settings
        head = {
            "video": self.shape.wire(),
            "clip": settings.clip.wire(),
            "decoder": decoder(),
            **fields.pop("head", {}),
        }
        return ModelCard(
            task=task,
            architecture=self._context.architecture,
            window=self._window,
            resolution=settings.resolution,
            mean=settings.augmentation.mean,
            std=settings.augmentation.std,
            head=head,
            **fields,
        )


class ActionTraining(_ClipTraining):
    """Mode actions; see :class:`florence.tasks.task.Task`."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The classes' names; collective at the first call.

        Raises:
            DataError: a clip has no class, or its number no name.
        """
        uri, shards = self._settings.data, self.shards

        def found() -> tuple[str, ...]:
            numbers = shards.class_indices()
            if int(numbers.min()) < 0:
                lacking = shards.key(int((numbers < 0).argmax()))
                raise DataError(f"{uri}: clip {lacking} has no class: add a .cls with its number")
            highest = int(numbers.max())
            names = shards.class_names or tuple(str(number) for number in range(highest + 1))
            if highest >= len(names):
                raise DataError(
                    f"{uri} has clips of class {highest}, but classes.json names only the classes "
                    f"0 to {len(names) - 1}: name them all"
                )
            return names

        return self._context.world.on_first(found)

    def stream(self) -> ShardStream[Any, Any]:
        """Clips and labels."""
        settings, head = self._settings, self._settings.head
        reader = ClassClipReader(
            clips=AugmentedClips(
                resolution=settings.resolution,
                augmentation=settings.augmentation,
                operations=head.rand_augment.operations,
                magnitude=head.rand_augment.magnitude,
                sampling=settings.clip,
            ),
            numbers=np.arange(len(self.names), dtype=np.int64),
            mixup=head.mixup,
            cutmix=head.cutmix,
        )
        return training_stream(self._context, settings, self.shards, reader)

    def model(self, source: StoredModel | None, *, init: bool) -> nn.Module:
        """The tower of ``source``, inflated where it is one of images, and a fresh classifier.

        The classifier too is the source's where it names the same classes.
        """
        settings = self._settings
        model = build_video_classifier(
            self._context.architecture,
            self.shape,
            self._head_shape(),
            checkpointing=settings.activation_checkpointing,
            drop_path=settings.drop_path,
        )
        initialise(model, settings.seed if init else None)
        if source is not None and settings.inflate:
            load_video_tower(model.image, source)
            if source.card.task == ACTIONS and source.card.labels == self.names:
                load_tower(model.head, source, "head")
        if settings.compile:
            compile_blocks(model)
        return model

    def rules(self, model: nn.Module) -> list[ParameterRule]:
        """The tower learns slower than the classifier; its projection takes no part."""
        scale = self._settings.head.tower_lr_scale
        slower = [
            rule if rule.lr_scale is None else replace(rule, lr_scale=scale * rule.lr_scale)
            for rule in super().rules(model)
        ]
        return [
            ParameterRule(pattern="image.*", lr_scale=scale),
            *slower,
            ParameterRule(pattern="image.projection.*", frozen=True),
        ]

    def objective(self) -> CrossEntropyObjective:
        """Cross-entropy with smoothed labels."""
        return CrossEntropyObjective(self._settings.head.label_smoothing)

    def card(self) -> ModelCard:
        """A classifier of clips with the names of its classes."""
        return self.card_of(
            ACTIONS, labels=self.names, head={"classifier": self._head_shape().to_card()}
        )

    def results(self, state: Mapping[str, Tensor]) -> Mapping[str, float]:
        """How many classes there are."""
        return {"classes": float(len(self.names))}

    def _head_shape(self) -> HeadShape:
        return HeadShape(classes=len(self.names), dropout=self._settings.head.dropout)


class VideoTextTraining(_ClipTraining):
    """Mode retrieval; see :class:`florence.tasks.task.Task`."""

    def stream(self) -> ShardStream[Any, PairBatch]:
        """Clips, each with one of its captions."""
        settings = self._settings
        reader = CaptionClipReader(
            sampling=settings.clip,
            by_clip=settings.captions.label is RetrievalLabel.IMAGE,
            captions_per_clip=settings.captions.captions_per_clip,
            resolution=settings.resolution,
            augmentation=settings.augmentation,
            context=self._context.architecture.text.context,
        )
        return training_stream(self._context, settings, self.shards, reader)

    def model(self, source: StoredModel | None, *, init: bool) -> nn.Module:
        """Both towers of ``source``, that of clips inflated where it is one of images."""
        settings = self._settings
        with on_meta():
            model = VideoTwoTower(
                self._context.architecture,
                self.shape,
                checkpointing=settings.activation_checkpointing,
                temperature=settings.loss.temperature,
                drop_path=settings.drop_path,
            )
        initialise(model, settings.seed if init else None)
        if source is not None:
            load_tower(model.text, source, "text")
            model.logit_scale.data.copy_(source.state["logit_scale"].float())
            if settings.inflate:
                load_video_tower(model.image, source)
        if settings.compile:
            compile_blocks(model)
        return model

    def rules(self, model: nn.Module) -> list[ParameterRule]:
        """A bounded temperature beside what all models of clips have."""
        maximum = math.log(self._settings.loss.max_scale)
        return [*super().rules(model), ParameterRule(pattern="logit_scale", maximum=maximum)]

    def objective(self) -> ContrastiveObjective:
        """UniCL over all ranks."""
        return ContrastiveObjective(self._settings.loss)

    def card(self) -> ModelCard:
        """Both towers, with the templates that the texts had before."""
        templates: Sequence[str] = self._card.templates if self._card is not None else ()
        return self.card_of(VIDEO_TEXT, templates=tuple(templates))

    def results(self, state: Mapping[str, Tensor]) -> Mapping[str, float]:
        """What the logits are multiplied by."""
        return {"logitScale": float(state["logit_scale"].exp())}
