"""Training a detector on boxes, from an image tower that was trained on texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from florence.config import EngineKind, Evaluate
from florence.data.stream import ShardStream
from florence.distributed.parameter_rules import ParameterRule
from florence.models.card import inherited_window
from florence.models.compilation import compile_blocks
from florence.models.stored import ModelCard, StoredModel, load_tower, take
from florence.models.two_tower import no_decay_names
from florence.stages.context import StageContext
from florence.stages.training_data import imported
from florence.tasks.detection.batch import DetectionBatch
from florence.tasks.detection.detector import Detector, build_detector
from florence.tasks.detection.objective import DetectionObjective
from florence.tasks.detection.settings import Detection
from florence.tasks.detection.shape import DetectorShape
from florence.tasks.detection.stream import detection_stream
from florence.tasks.detection.training_set import TrainingSet, open_training_set
from florence.tasks.layer_decay import layer_decay_rules
from florence.text.templates import load_templates


class DetectionTask:
    """See :class:`florence.tasks.task.Task`."""

    def __init__(self, settings: Detection, context: StageContext, card: ModelCard | None) -> None:
        self._settings = settings
        self._context = context
        self._source_card = card
        self._window = inherited_window(settings.window, card, context.architecture)

    @cached_property
    def data(self) -> TrainingSet:
        """Images with boxes; collective at the first call."""
        return open_training_set(self._context, self._settings)

    @cached_property
    def shape(self) -> DetectorShape:
        """Of the head; collective at the first call."""
        return self._settings.shape(len(self.data.classes), self.data.attributes)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the head's outputs; none where it finds anything."""
        return () if self._settings.class_agnostic else self.data.classes

    def stream(self) -> ShardStream[Any, DetectionBatch]:
        """Augmented images with targets."""
        settings = self._settings
        return detection_stream(
            self.data.shards,
            self.data.objects(class_agnostic=settings.class_agnostic),
            settings.boxes,
            seed=settings.seed,
            batch_size=settings.batch_size,
            loader=settings.loader,
            device=self._context.world.device,
        )

    def model(self, source: StoredModel | None, *, init: bool) -> nn.Module:
        """A detector with the tower of ``source``, and what of its head fits this one.

        A detector of other classes gives everything but the last layer of classes.
        """
        settings = self._settings
        model = build_detector(
            self._context.architecture,
            self.shape,
            seed=settings.seed,
            window=self._window,
            checkpointing=settings.activation_checkpointing,
            drop_path=settings.drop_path,
            frozen_tower=settings.frozen_tower,
            texts=settings.class_agnostic,
            init=init,
        )
        if source is not None:
            self._take(model, source)
        if settings.compile:
            compile_blocks(model, dynamic=True)
        return model

    def rules(self, model: nn.Module) -> Sequence[ParameterRule]:
        """The tower at a part of the rate, or frozen; texts and what boxes do not need always."""
        settings = self._settings
        names = [name for name, _ in model.named_parameters()]
        frozen = [f"image.layers.{stage}.*" for stage in range(settings.frozen_stages)]
        if settings.frozen_stages:
            frozen.append("image.patch_embed.*")
        if settings.frozen_tower:
            frozen.append("image.*")
        frozen += ["image.norm.*", "image.projection.*"]
        frozen += [name for name in names if name.startswith("text.") or name == "logit_scale"]
        scale = settings.tower_lr_scale
        decayed = {
            rule.pattern: rule
            for rule in layer_decay_rules(model, settings.optimizer.layer_decay)
            if rule.pattern.startswith("image.")
        }
        return [
            *(ParameterRule(pattern=name, weight_decay=0.0) for name in no_decay_names(model)),
            ParameterRule(pattern="image.*", lr_scale=scale),
            *(
                ParameterRule(pattern=name, lr_scale=scale * (rule.lr_scale or 1.0))
                for name, rule in decayed.items()
            ),
            *(ParameterRule(pattern=pattern, frozen=True) for pattern in frozen),
        ]

    def objective(self) -> DetectionObjective:
        """ATSS with focal loss, GIoU and centerness."""
        settings = self._settings
        return DetectionObjective(
            strides=self.shape.strides,
            mean=settings.augmentation.mean,
            std=settings.augmentation.std,
            weights=settings.loss,
            world=self._context.world,
            class_agnostic=settings.class_agnostic,
            attributes=len(self.data.attributes),
            equal_calls=settings.zero_stage == 3 and settings.engine is not EngineKind.TORCH,
        )

    def card(self) -> ModelCard:
        """A detector with the names of its classes, or the templates for those to come."""
        settings = self._settings
        source = self._source_card
        return ModelCard(
            task=settings.leaves,
            architecture=self._context.architecture,
            window=self._window,
            resolution=settings.resolution,
            mean=settings.augmentation.mean,
            std=settings.augmentation.std,
            head=self._head(),
            labels=self.labels,
            templates=self._templates(source),
        )

    def evaluations(self) -> Evaluate | None:
        """Boxes of held-out images, unless others are named."""
        return self._evaluations

    @cached_property
    def _evaluations(self) -> Evaluate | None:
        settings = self._settings
        if settings.validation is None:
            return settings.evaluation
        return settings.evaluations(imported(self._context, settings.validation))

    def results(self, state: Mapping[str, Tensor]) -> Mapping[str, float]:
        """How many classes there are."""
        return {"classes": float(len(self.data.classes))}

    def _head(self) -> dict[str, Any]:
        card = self._source_card
        if card is None:
            return self.shape.to_card()
        known = (card.head or {}).get("tower_resolution", card.resolution)
        return {**self.shape.to_card(), "tower_resolution": known}

    def _templates(self, source: ModelCard | None) -> tuple[str, ...]:
        if not self._settings.class_agnostic:
            return ()
        given = source.templates if source is not None else ()
        return given or load_templates("imagenet", s3=self._context.s3)

    def _take(self, model: Detector, source: StoredModel) -> None:
        load_tower(model.image, source, "image")
        if model.has_texts:
            load_tower(model.text, source, "text")
            model.logit_scale.data.copy_(source.state["logit_scale"].reshape(1))
        theirs, ours = take(source.state, "head"), model.head.state_dict()
        same_classes = source.card.labels == self.labels
        usable = {
            name: value
            for name, value in theirs.items()
            if name in ours
            and ours[name].shape == value.shape
            and (same_classes or not name.startswith(("anchors.logits.", "attributes.")))
        }
        if source.card.head is not None and "blocks" in source.card.head:
            model.head.load_state_dict(usable, strict=False)
