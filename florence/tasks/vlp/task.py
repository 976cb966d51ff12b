"""Vision-language pretraining: image-text matching and masked words, METER's two losses."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from florence.config import Evaluate
from florence.data.mixture import Mixture
from florence.data.shards import ShardSet
from florence.data.stream import ShardStream
from florence.distributed.gather import sum_over_ranks, world_size
from florence.distributed.objective import Loss, Model
from florence.models.card import ModelCard
from florence.models.stored import StoredModel, load_tower
from florence.models.vision_language import BuildOptions, VisionLanguage
from florence.stages.context import StageContext
from florence.stages.training_data import (
    READ_AS_THEY_ARE,
    imported,
    open_training_shards,
    training_stream,
)
from florence.tasks.vision_language.training import VisionLanguageTraining
from florence.tasks.vlp.data import CaptionedBatch, CaptionedReader
from florence.tasks.vlp.model import PretrainingModel
from florence.tasks.vlp.settings import Negatives, Vlp
from florence.text.masking import IGNORED


class PretrainingObjective:
    """Cross-entropy of matching, the mean over pairs, and of hidden tokens, the mean over them.

    Both means are over the samples of all ranks, and both weigh the same. Metrics: ``itm_loss``,
    ``mlm_loss``, ``itm_accuracy``, ``mlm_accuracy``, and ``itm_negatives``, the part of the texts
    that got another image.
    """

    coupled = False

    def prepare(self, batch: CaptionedBatch) -> tuple[int, Tensor]:
        """The rank's samples, and the hidden tokens of each rank on average; collective."""
        hidden = (batch.targets != IGNORED).sum()
        return len(batch), sum_over_ranks(hidden).clamp(min=1) / world_size(None)

    def outputs(self, model: Model, chunk: CaptionedBatch) -> tuple[Tensor, ...]:
        """See :meth:`PretrainingModel.forward`."""
        found: tuple[Tensor, ...] = model(
            chunk.images,
            chunk.input_ids,
            chunk.masked_ids,
            chunk.targets,
            chunk.lengths,
            chunk.is_negative,
            chunk.eligible,
            chunk.chances,
        )
        return found

    def loss(
        self, outputs: tuple[Tensor, ...], batch: CaptionedBatch, prepared: tuple[int, Tensor]
    ) -> Loss:
        """The chunk's part of both means."""
        matching, own, words = outputs
        pairs, hidden = prepared
        targets = batch.targets[batch.targets != IGNORED]
        itm = F.cross_entropy(matching.float(), own, reduction="sum") / pairs
        mlm = F.cross_entropy(words.float(), targets, reduction="sum") / hidden
        with torch.no_grad():
            metrics = {
                "itm_loss": itm.detach(),
                "mlm_loss": mlm.detach(),
                "itm_accuracy": (matching.argmax(dim=1) == own).sum() / pairs,
                "mlm_accuracy": (words.argmax(dim=1) == targets).sum() / hidden,
                "itm_negatives": (own == 0).sum() / pairs,
            }
        return Loss(itm + mlm, metrics)


class VlpTask(VisionLanguageTraining):
    """See :class:`florence.tasks.task.Task`."""

    task = "vlp"

    def __init__(self, settings: Vlp, context: StageContext, card: ModelCard | None) -> None:
        super().__init__(settings, context, card)
        self._vlp = settings

    @cached_property
    def _data(self) -> ShardSet | Mixture:
        settings = self._vlp
        first = open_training_shards(self._context, settings.data)
        if not settings.further_data:
            return first
        others = [open_training_shards(self._context, each.data) for each in settings.further_data]
        weights = [each.weight for each in settings.further_data]
        return Mixture([first, *others], [1.0, *weights])

    def stream(self) -> ShardStream[Any, CaptionedBatch]:
        """Images, each with one of its captions."""
        settings = self._vlp
        reader = CaptionedReader(
            images=self.images,
            coder=self.shape.coder,
            text_length=settings.text_length,
            captions_per_image=settings.captions_per_image,
            mask_fraction=settings.mask_fraction,
            whole_words=settings.whole_words,
            group=settings.negative_group,
        )
        return training_stream(self._context, settings, self._data, reader)

    def module(self, options: BuildOptions) -> VisionLanguage:
        """See :class:`VisionLanguageTraining`."""
        return PretrainingModel(
            self._context.architecture,
            self.shape,
            options,
            hard_negatives=self._vlp.negatives is Negatives.HARD,
        )

    def take_head(self, model: VisionLanguage, source: StoredModel) -> None:
        """That of a model of the same sizes and words."""
        if source.card.task == self.task and source.card.head == self._described(source):
            load_tower(model.head, source, "head")

    def _described(self, source: StoredModel) -> dict[str, Any]:
        """The shape's card, with the length of texts that the source has: no head depends on it."""
        length = (source.card.head or {}).get("textLength")
        return {**self.shape.to_card(), "textLength": length}

    def objective(self) -> PretrainingObjective:
        """See :class:`PretrainingObjective`."""
        return PretrainingObjective()

    def evaluations(self) -> Evaluate | None:
        """Matching of held-out captions, unless others are named."""
        return self._evaluations

    @cached_property
    def _evaluations(self) -> Evaluate | None:
        settings = self._vlp
        if settings.validation is None:
            return settings.evaluation
        data = imported(self._context, settings.validation, but=READ_AS_THEY_ARE)
        return settings.evaluations(data)
