"""Contrastive pretraining: image-text pairs in, a two-tower model out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from florence.config import ContrastiveLoss, Evaluate, Text, Training
from florence.data.pairs import PairBatch, PairReader
from florence.data.stream import ShardStream
from florence.distributed.parameter_rules import ParameterRule
from florence.losses.contrastive import ContrastiveObjective
from florence.models.card import inherited_window
from florence.models.compilation import compile_blocks
from florence.models.stored import ModelCard, StoredModel
from florence.models.two_tower import build_model, no_decay_names
from florence.models.window_resize import resize_windows
from florence.stages.context import StageContext
from florence.stages.training_data import open_training_shards
from florence.tasks.layer_decay import layer_decay_rules
from florence.tasks.pretrain.settings import Pretrain
from florence.text.templates import load_templates


class ContrastiveTraining:
    """What every stage shares that trains two towers with UniCL.

    Args:
        settings: the stage's.
        text: how texts become labels and prompts.
        loss: the loss.
        card: of the model that the stage starts from.
        exclude_short: leave out samples whose text is short.
    """

    def __init__(
        self,
        settings: Training,
        context: StageContext,
        card: ModelCard | None,
        *,
        text: Text,
        loss: ContrastiveLoss,
        exclude_short: bool = False,
    ) -> None:
        self._settings = settings
        self._context = context
        self._text = text
        self._loss = loss
        self._exclude_short = exclude_short
        self._window = inherited_window(settings.window, card, context.architecture)
        self._templates = load_templates(text.templates, s3=context.s3)

    def stream(self) -> ShardStream[object, PairBatch]:
        """Image-text pairs."""
        settings, context = self._settings, self._context
        shards = open_training_shards(
            context, settings.data, text=self._text, exclude_short=self._exclude_short
        )
        reader = PairReader(
            resolution=settings.resolution,
            augmentation=settings.augmentation,
            templates=self._templates,
            context=context.architecture.text.context,
        )
        return ShardStream(
            shards,
            reader,  # type: ignore[arg-type]
            seed=settings.seed,
            batch_size=settings.batch_size,
            loader=settings.loader,
            device=context.world.device,
        )

    def model(self, source: StoredModel | None, *, init: bool) -> nn.Module:
        """Both towers and the temperature; all of them from ``source`` where there is one."""
        settings = self._settings
        model = build_model(
            self._context.architecture,
            seed=settings.seed,
            window=self._window,
            checkpointing=settings.activation_checkpointing,
            drop_path=settings.drop_path,
            temperature=self._loss.temperature,
            init=init and source is None,
        )
        if source is not None:
            model.load_state_dict(resize_windows(dict(source.state), model))
        if settings.compile:
            compile_blocks(model)
        return model

    def rules(self, model: nn.Module) -> Sequence[ParameterRule]:
        """No decay of vectors, tables and positions; a bounded temperature; layer-wise rates."""
        return [
            *(ParameterRule(pattern=name, weight_decay=0.0) for name in no_decay_names(model)),
            ParameterRule(pattern="logit_scale", maximum=math.log(self._loss.max_scale)),
            *layer_decay_rules(model, self._settings.optimizer.layer_decay),
        ]

    def objective(self) -> ContrastiveObjective:
        """UniCL over all ranks."""
        return ContrastiveObjective(self._loss)

    def card(self) -> ModelCard:
        """A two-tower model with the templates it was trained with."""
        settings = self._settings
        return ModelCard(
            task="contrastive",
            architecture=self._context.architecture,
            window=self._window,
            resolution=settings.resolution,
            mean=settings.augmentation.mean,
            std=settings.augmentation.std,
            templates=self._templates,
        )

    def evaluations(self) -> Evaluate | None:
        """Those that the settings name."""
        return self._settings.evaluation

    def results(self, state: Mapping[str, Tensor]) -> Mapping[str, float]:
        """What the logits are multiplied by."""
        return {"logitScale": float(state["logit_scale"].exp())}


class PretrainTask(ContrastiveTraining):
    """See :class:`florence.tasks.task.Task`."""

    def __init__(self, settings: Pretrain, context: StageContext, card: ModelCard | None) -> None:
        super().__init__(
            settings,
            context,
            card,
            text=settings.text,
            loss=settings.loss,
            exclude_short=settings.exclude_augmented,
        )
