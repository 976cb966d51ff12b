"""What both probes share: towers to look at, the data, and its way through them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from florence.config import Architecture
from florence.config.progress import StageProgress
from florence.data.labelled import Images, LabelledImages
from florence.evaluation.context import EvaluationContext
from florence.models.card import inherited_window
from florence.models.classifier import CLASSIFICATION, build_tower
from florence.models.image import CoSwin
from florence.models.stored import ModelCard, StoredModel
from florence.stages.context import StageContext
from florence.stages.evaluation import agreed_stop
from florence.stages.training_data import READ_AS_THEY_ARE, imported
from florence.tasks.finetune.settings import Finetune


@dataclass(frozen=True)
class Probed:
    """The image tower that is probed, and how its images are made."""

    stored: StoredModel | None
    architecture: Architecture
    window: int
    card: ModelCard
    """Of a classifier on the tower; its head and labels are not known yet."""

    def tower(self, context: StageContext, settings: Finetune, *, scratch: bool) -> CoSwin:
        """The model's tower on the device, or one that is freshly initialised."""
        tower = build_tower(
            self.architecture,
            seed=settings.seed,
            window=self.window,
            source=None if scratch else self.stored,
        )
        return tower.to(context.world.device).eval()


def probed(context: StageContext, settings: Finetune) -> Probed:
    """The model that the stage starts from, or a fresh one of the job's architecture.

    Images are normalised as that model's training did it: a probe changes nothing about it.
    """
    stored = context.input_model.open() if context.input_model is not None else None
    start = stored.card if stored is not None else None
    architecture = start.architecture if start is not None else context.architecture
    window = inherited_window(settings.window, start, architecture)
    card = ModelCard(
        task=CLASSIFICATION,
        architecture=architecture,
        window=window,
        resolution=settings.resolution,
        mean=start.mean if start is not None else settings.augmentation.mean,
        std=start.std if start is not None else settings.augmentation.std,
    )
    return Probed(stored, architecture, window, card)


def open_images(context: StageContext, uri: str) -> LabelledImages:
    """Images with one class each, of whatever form; collective."""
    world = context.world
    return LabelledImages.open(
        imported(context, uri, but=READ_AS_THEY_ARE),
        context.s3,
        share=world.on_first,
        allow_unindexed=world.size == world.local_size,
    )


class FeatureReader:
    """Images through towers, all ranks sharing the work, with progress and stops.

    Args:
        total: images that will go through in all.
    """

    def __init__(
        self, context: StageContext, settings: Finetune, card: ModelCard, *, total: int
    ) -> None:
        self._context = context
        self._settings = settings
        self._card = card
        self._total = total
        self._done = 0
        self._stop = agreed_stop(context, "it starts over next time")

    def evaluation_context(self, model: nn.Module) -> EvaluationContext:
        """How a model is run."""
        settings = self._settings
        return EvaluationContext(
            model=model,
            card=self._card,
            world=self._context.world,
            s3=self._context.s3,
            batch_size=settings.batch_size,
            resolution=settings.resolution,
            precision=settings.precision,
            workers=settings.loader.workers,
            watch=self._watch,
        )

    def features(
        self,
        images: Images,
        tower: CoSwin,
        function: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """(N, F) fp32 on every rank's CPU: what a tower has of images before its projection.

        Args:
            function: of a batch, in place of ``tower.features``.
        """
        run = self.evaluation_context(tower)
        return run.over_images(images, tower, function or tower.features)

    def _watch(self, count: int) -> None:
        self._stop()
        self._done = min(self._total, self._done + count * self._context.world.size)
        if self._context.world.is_first:
            self._context.report(
                StageProgress(
                    phase="features", step=self._done, total=self._total, samples=self._done
                )
            )


def with_flipped(tower: CoSwin) -> Callable[[Tensor], Tensor]:
    """Features of images and, behind them, of their mirror images: (B, 2F)."""
    return lambda images: torch.cat([tower.features(images), tower.features(images.flip(-1))], 1)
