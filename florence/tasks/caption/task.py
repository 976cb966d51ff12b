"""Learning to describe images: cross-entropy of each word after those before it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from florence.config import Evaluate
from florence.config.progress import StageProgress
from florence.data.shards import ShardSet
from florence.data.stream import ShardStream
from florence.distributed.gather import sum_over_ranks, world_size
from florence.distributed.objective import Loss, Model
from florence.models.bert import mask_of
from florence.models.card import ModelCard
from florence.models.stored import StoredModel, load_tower
from florence.models.vision_language import BuildOptions, VisionLanguage, VisionLanguageShape
from florence.stages.context import StageContext
from florence.stages.long_work import computed_by_first
from florence.stages.training_data import (
    READ_AS_THEY_ARE,
    imported,
    open_training_shards,
    training_stream,
)
from florence.tasks.caption.data import DescribedBatch, DescribedReader
from florence.tasks.caption.model import CaptionModel, texts_of
from florence.tasks.caption.references import ReferencedReader, weights_of
from florence.tasks.caption.self_critical import SelfCriticalModel, SelfCriticalObjective
from florence.tasks.caption.settings import Caption
from florence.tasks.vision_language.training import VisionLanguageTraining
from florence.text.caption_metrics import CiderWeights


class CaptionObjective:
    """Cross-entropy with smoothed labels, the mean over the words of all ranks, ends included.

    Metric: ``word_accuracy``.
    """

    coupled = False

    def __init__(self, label_smoothing: float) -> None:
        self._label_smoothing = label_smoothing

    def prepare(self, batch: DescribedBatch) -> Tensor:
        """Words of each rank on average; collective."""
        return sum_over_ranks((batch.lengths - 1).sum()) / world_size(None)

    def outputs(self, model: Model, chunk: DescribedBatch) -> tuple[Tensor, ...]:
        """Logits (M, V) of every word."""
        return (model(chunk.images, chunk.input_ids, chunk.lengths),)

    def loss(self, outputs: tuple[Tensor, ...], batch: DescribedBatch, prepared: Tensor) -> Loss:
        """The chunk's part of the mean."""
        logits = outputs[0].float()
        words = batch.input_ids[:, 1:][mask_of(batch.lengths - 1, batch.input_ids.shape[1] - 1)]
        value = F.cross_entropy(
            logits, words, reduction="sum", label_smoothing=self._label_smoothing
        )
        with torch.no_grad():
            right = (logits.argmax(dim=1) == words).sum() / prepared
        return Loss(value / prepared, {"word_accuracy": right})


class CaptionTask(VisionLanguageTraining):
    """See :class:`florence.tasks.task.Task`."""

    task = "caption"

    def __init__(self, settings: Caption, context: StageContext, card: ModelCard | None) -> None:
        super().__init__(settings, context, card)
        self._caption = settings

    def stream(self) -> ShardStream[Any, Any]:
        """Images, each with one of its captions; in self-critical training with all of them."""
        settings = self._caption
        reader: DescribedReader | ReferencedReader
        if settings.self_critical is None:
            reader = DescribedReader(
                images=self.images,
                coder=self.shape.coder,
                text_length=settings.text_length,
                captions_per_image=settings.captions_per_image,
            )
        else:
            reader = ReferencedReader(
                images=self.images,
                captions_per_image=settings.captions_per_image,
                samples=settings.self_critical.samples,
                length=settings.text_length - 1,
            )
        return training_stream(self._context, settings, self._shards, reader)

    @cached_property
    def _shards(self) -> ShardSet:
        return open_training_shards(self._context, self._caption.data)

    def module(self, options: BuildOptions) -> VisionLanguage:
        """See :class:`VisionLanguageTraining`."""
        sort = CaptionModel if self._caption.self_critical is None else SelfCriticalModel
        return sort(self._context.architecture, self.shape, options)

    def take_head(self, model: VisionLanguage, source: StoredModel) -> None:
        """That of a caption model, or of vlp's masked words, of the same sizes and words."""
        prefix = {"caption": "head", "vlp": "head.mlm"}.get(source.card.task)
        if prefix is None:
            return
        theirs = VisionLanguageShape.of(source.card, source.uri)
        same = theirs.roberta == self.shape.roberta and theirs.fusion == self.shape.fusion
        if same and theirs.coder.vocabulary == self.shape.coder.vocabulary:
            load_tower(model.head, source, prefix)

    def objective(self) -> CaptionObjective | SelfCriticalObjective:
        """Of words, or of whole captions; the latter reads all captions first, collectively."""
        settings, coder = self._caption, self.shape.coder
        if settings.self_critical is None:
            return CaptionObjective(settings.label_smoothing)

        def work(beat: Callable[[], None]) -> CiderWeights:
            def tell(done: int, total: int) -> None:
                self._context.report(StageProgress(phase="index", phase_fraction=done / total))
                beat()

            return weights_of(self._shards, settings.captions_per_image, tell)

        weights = computed_by_first(self._context, work, then="captions are counted anew next time")
        return SelfCriticalObjective(partial(texts_of, coder), coder.end, weights)

    def evaluations(self) -> Evaluate | None:
        """Captions of held-out images, unless others are named."""
        return self._evaluations

    @cached_property
    def _evaluations(self) -> Evaluate | None:
        settings = self._caption
        if settings.validation is None:
            return settings.evaluation
        data = imported(self._context, settings.validation, but=READ_AS_THEY_ARE)
        return settings.evaluations(data)
