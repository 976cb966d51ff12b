"""Training a fusion of image and text, whatever its head and its loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from florence.config import Evaluate
from florence.data.augmented import AugmentedImages
from florence.distributed.parameter_rules import ParameterRule
from florence.errors import ConfigurationError
from florence.models.card import ModelCard, inherited_window
from florence.models.compilation import compile_blocks
from florence.models.fusion import FusionSizes
from florence.models.roberta import Roberta, read_roberta, read_roberta_sizes
from florence.models.stored import StoredModel
from florence.models.two_tower import no_decay_names
from florence.models.vision_language import (
    BuildOptions,
    VisionLanguage,
    VisionLanguageShape,
    built,
    take_parts,
)
from florence.stages.context import StageContext
from florence.tasks.layer_decay import layer_decay_rules
from florence.tasks.vision_language.settings import TextEncoder, VisionLanguageSettings
from florence.text.coding import ClipCoder, RobertaCoder, TextCoder, read_roberta_coder


class VisionLanguageTraining(ABC):
    """What every stage shares that fuses image and text; see :class:`florence.tasks.task.Task`.

    Args:
        settings: the stage's.
        context: what surrounds it.
        card: of the model that the stage starts from.
    """

    task: str
    """As the card of the finished model names it."""

    def __init__(
        self, settings: VisionLanguageSettings, context: StageContext, card: ModelCard | None
    ) -> None:
        self._settings = settings
        self._context = context
        self._window = inherited_window(settings.window, card, context.architecture)
        self._inherited = None
        if card is not None and card.head is not None and "fusion" in card.head:
            self._inherited = VisionLanguageShape.of(
                card, context.input_model.uri if context.input_model else "the model"
            )

    @abstractmethod
    def module(self, options: BuildOptions) -> VisionLanguage:
        """The model, with the task's head."""

    @abstractmethod
    def take_head(self, model: VisionLanguage, source: StoredModel) -> None:
        """Give the head what the model has that the stage starts from, if it has anything."""

    @cached_property
    def shape(self) -> VisionLanguageShape:
        """Of the model beside its towers; collective at the first call.

        Raises:
            ConfigurationError: there is no RoBERTa where one is wanted, or texts are too long.
            DataError: its files are unusable.
        """
        settings, before = self._settings, self._inherited
        fusion = before.fusion if before else FusionSizes()
        if settings.fusion is not None:
            fusion = FusionSizes(**settings.fusion.model_dump())
        if before is not None and self._keeps_encoder(before):
            shape = replace(before, fusion=fusion, text_length=settings.text_length)
        elif settings.text_encoder is TextEncoder.FLORENCE:
            shape = VisionLanguageShape(
                roberta=None,
                coder=ClipCoder(),
                fusion=fusion,
                text_length=settings.text_length,
            )
        else:
            shape = self._with_roberta(fusion)
        self._check_length(shape)
        return shape

    @property
    def images(self) -> AugmentedImages:
        """How images become pixels."""
        settings = self._settings
        return AugmentedImages(
            resolution=settings.resolution,
            augmentation=settings.augmentation,
            operations=settings.rand_augment.operations,
            magnitude=settings.rand_augment.magnitude,
        )

    def model(self, source: StoredModel | None, *, init: bool) -> nn.Module:
        """Towers and fusion of ``source``, RoBERTa from its files, and the rest from the seed."""
        settings = self._settings
        options = BuildOptions(
            window=self._window,
            dropout=settings.dropout,
            drop_path=settings.drop_path,
            checkpointing=settings.activation_checkpointing,
            frozen_image=settings.frozen_image,
            frozen_text=settings.frozen_text,
        )
        model = built(lambda: self.module(options), seed=settings.seed, init=init)
        if init and isinstance(model.text, Roberta) and settings.roberta is not None:
            uri, s3 = settings.roberta, self._context.s3
            model.text.load_state_dict(read_roberta(uri, s3).state)
        if source is not None:
            take_parts(model, source, text=settings.roberta is None)
            self.take_head(model, source)
        if settings.compile:
            compile_blocks(model)
        return model

    def rules(self, model: nn.Module) -> Sequence[ParameterRule]:
        """No decay of vectors, tables and embeddings; the fusion's and the head's own rates."""
        settings = self._settings
        rules = [
            *(ParameterRule(pattern=name, weight_decay=0.0) for name in no_decay_names(model)),
            *layer_decay_rules(model, settings.optimizer.layer_decay),
            ParameterRule(pattern="fusion.*", lr_scale=settings.fusion_lr_scale),
            ParameterRule(pattern="head.*", lr_scale=settings.head_lr_scale),
            ParameterRule(pattern="image.projection.*", frozen=True),
        ]
        if self.shape.roberta is None:
            rules.append(ParameterRule(pattern="text.text_projection", frozen=True))
        if settings.frozen_image:
            rules.append(ParameterRule(pattern="image.*", frozen=True))
        if settings.frozen_text:
            rules.append(ParameterRule(pattern="text.*", frozen=True))
        return rules

    def card(self) -> ModelCard:
        """A model of the task, with what it is built of."""
        settings = self._settings
        return ModelCard(
            task=self.task,
            architecture=self._context.architecture,
            window=self._window,
            resolution=settings.resolution,
            mean=settings.augmentation.mean,
            std=settings.augmentation.std,
            tokenizer=self.shape.coder.name,
            head=self.shape.to_card(),
            labels=self.labels,
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """What the card's labels are."""
        return ()

    def evaluations(self) -> Evaluate | None:
        """Those that the settings name."""
        return self._settings.evaluation

    def results(self, state: Mapping[str, Tensor]) -> Mapping[str, float]:
        """Nothing beside the metrics of evaluations."""
        return {}

    def _keeps_encoder(self, before: VisionLanguageShape) -> bool:
        wanted = self._settings.text_encoder
        if self._settings.roberta is not None:
            return False
        has = TextEncoder.FLORENCE if before.roberta is None else TextEncoder.ROBERTA
        return wanted in (None, has)

    def _with_roberta(self, fusion: FusionSizes) -> VisionLanguageShape:
        uri, s3 = self._settings.roberta, self._context.s3
        if uri is None:
            raise ConfigurationError(
                "roberta: give the folder of a RoBERTa, or set textEncoder to florence"
            )

        def read() -> tuple[Any, str]:
            return read_roberta_sizes(uri, s3), read_roberta_coder(uri, s3).document

        sizes, document = self._context.world.on_first(read)
        coder: TextCoder = RobertaCoder(document, uri)
        if coder.vocabulary > sizes.vocabulary:
            raise ConfigurationError(
                f"roberta: the tokenizer in {uri} has {coder.vocabulary} entries and the model "
                f"{sizes.vocabulary}: use the files of one model"
            )
        return VisionLanguageShape(
            roberta=sizes, coder=coder, fusion=fusion, text_length=self._settings.text_length
        )

    def _check_length(self, shape: VisionLanguageShape) -> None:
        context = self._context.architecture.text.context
        most = shape.roberta.context if shape.roberta else context
        if shape.text_length > most:
            raise ConfigurationError(
                f"textLength={shape.text_length} is more than the {most} positions of the text "
                f"encoder: use at most {most}"
            )
