"""Training two towers with UniCL, whatever the pairs are made of."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from florence.config import ContrastiveLoss, Evaluate, Training
from florence.data.pairs import PairBatch, PairReader
from florence.data.shards import ShardSet
from florence.data.stream import ShardStream
from florence.distributed.parameter_rules import ParameterRule
from florence.losses.contrastive import ContrastiveObjective
from florence.models.card import inherited_window
from florence.models.compilation import compile_blocks
from florence.models.stored import CONTRASTIVE, ModelCard, StoredModel
from florence.models.two_tower import build_model, no_decay_names
from florence.models.window_resize import resize_windows
from florence.stages.context import StageContext
from florence.stages.training_data import training_stream
from florence.tasks.layer_decay import layer_decay_rules


class ContrastiveTraining(ABC):
    """What every stage shares that trains two towers with UniCL; see :class:`Task`.

    Its kinds say which samples there are and what texts and labels they get.

    Args:
        settings: the stage's.
        context: what surrounds it.
        card: of the model that the stage starts from.
        loss: the loss.
        templates: sentences with {} that texts are put into.
    """

    def __init__(
        self,
        settings: Training,
        context: StageContext,
        card: ModelCard | None,
        *,
        loss: ContrastiveLoss,
        templates: Sequence[str],
    ) -> None:
        self._settings = settings
        self._context = context
        self._loss = loss
        self._templates = tuple(templates)
        self._window = inherited_window(settings.window, card, context.architecture)

    @abstractmethod
    def open_shards(self) -> ShardSet:
        """The samples; collective."""

    @abstractmethod
    def reader(self, shards: ShardSet) -> PairReader:
        """What a sample becomes."""

    @cached_property
    def shards(self) -> ShardSet:
        """The samples, opened once; collective at the first call."""
        return self.open_shards()

    def stream(self) -> ShardStream[Any, PairBatch]:
        """Image-text pairs."""
        return training_stream(self._context, self._settings, self.shards, self.reader(self.shards))

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
            task=CONTRASTIVE,
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
