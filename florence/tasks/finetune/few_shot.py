"""Mode fewShot: episodes of few images from which a tower learns classes that it never saw."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from florence.config.progress import StageProgress
from florence.data.labelled import LabelledImages, image_batches
from florence.evaluation.few_shot import (
    Episode,
    FewShotResult,
    draw_episode,
    episode_seed,
    few_shot_result,
)
from florence.evaluation.few_shot_training import EpisodeTraining, train_episode, train_head
from florence.models.image import CoSwin
from florence.models.precision import autocast
from florence.stages.context import StageContext
from florence.stages.evaluation import agreed_stop, write_results
from florence.tasks.finetune.probing import (
    FeatureReader,
    Probed,
    open_images,
    probed,
    with_flipped,
)
from florence.tasks.finetune.settings import Finetune

log = logging.getLogger(__name__)

Solve = Callable[[int, Episode], float]
"""The accuracy of an episode, by its number; on one rank alone."""


@dataclass
class _Tally:
    """Episodes done, for progress and stops."""

    context: StageContext
    total: int
    done: int = 0

    def __post_init__(self) -> None:
        self.stop = agreed_stop(self.context, "it starts over next time")

    def add(self, episodes: int) -> None:
        """Count episodes of all ranks; collective."""
        self.stop()
        self.done += episodes
        if self.context.world.is_first:
            self.context.report(StageProgress(phase="episodes", step=self.done, total=self.total))


def few_shot(context: StageContext, settings: Finetune) -> None:
    """Run all episodes and leave ``metrics.json``: mean and 95 % interval by number of shots.

    An episode is a function of the data, the tower, the settings and its number, whatever rank
    runs it.

    Raises:
        DataError: data is missing or broken, or too few classes have enough images.
        StoppedError: the stage was asked to stop; the next attempt starts over.
    """
    context.report(StageProgress(phase="start"))
    start = probed(context, settings)
    data = open_images(context, settings.data)
    chosen = settings.few_shot
    for shots in chosen.shots:
        _draw(settings, data, shots, 0)  # too few images are told before the work, not after it
    compared = settings.compare_with_scratch and start.stored is not None
    rounds = (False, True)[: 2 if compared else 1]
    tally = _Tally(context, chosen.episodes * len(chosen.shots) * len(rounds))
    metrics: dict[str, float] = {}
    rows: list[dict[str, object]] = []
    for scratch in rounds:
        solve = _solver(context, settings, start, data, scratch=scratch)
        for shots in chosen.shots:
            result = few_shot_result(_accuracies(context, settings, data, shots, solve, tally))
            metrics |= _metrics(chosen.ways, shots, result, scratch=scratch)
            rows += [
                {"shots": shots, "scratch": scratch, "episode": number, "accuracy": accuracy}
                for number, accuracy in enumerate(result.accuracies)
            ]
    if context.world.is_first:
        for name, value in metrics.items():
            log.info("%s %.4f", name, value)
        context.recorder.parameters({"model": start.architecture.wire(), "stage": settings.wire()})
        context.recorder.metrics(0, metrics)
        context.recorder.table("episodes", rows)
        write_results(context, metrics, {})


def _draw(settings: Finetune, data: LabelledImages, shots: int, number: int) -> Episode:
    chosen = settings.few_shot
    return draw_episode(
        data.labels,
        number,
        ways=chosen.ways,
        shots=shots,
        queries=chosen.queries,
        seed=settings.seed,
    )


def _accuracies(
    context: StageContext,
    settings: Finetune,
    data: LabelledImages,
    shots: int,
    solve: Solve,
    tally: _Tally,
) -> Sequence[float]:
    """Of all episodes, in their order, on every rank; collective.

    Episodes are dealt out one by one, so that all ranks are asked to stop equally often.
    """
    world, episodes = context.world, settings.few_shot.episodes
    mine: dict[int, float] = {}
    for first in range(0, episodes, world.size):
        number = first + world.rank
        if number < episodes:
            mine[number] = solve(number, _draw(settings, data, shots, number))
        tally.add(min(world.size, episodes - first))
    every = {n: value for part in world.all_gather_object(mine) for n, value in part.items()}
    return [every[number] for number in range(episodes)]


def _solver(
    context: StageContext,
    settings: Finetune,
    start: Probed,
    data: LabelledImages,
    *,
    scratch: bool,
) -> Solve:
    """How an episode is solved with a tower; collective where it is frozen."""
    tower = start.tower(context, settings, scratch=scratch)
    if settings.few_shot.frozen_tower:
        return _with_frozen_tower(context, settings, start, data, tower)
    device = context.world.device

    def features(images: Tensor) -> Tensor:
        with autocast(device.type, settings.precision):
            found: Tensor = tower.features(images)
        return found.float()

    def solve(number: int, episode: Episode) -> float:
        support = _images(settings, start, data, episode.support, device)
        query = _images(settings, start, data, episode.query, device)
        return train_episode(
            tower,
            features,
            support,
            query,
            seed=episode_seed(settings.seed, number),
            training=_training(settings),
        )

    return solve


def _with_frozen_tower(
    context: StageContext,
    settings: Finetune,
    start: Probed,
    data: LabelledImages,
    tower: CoSwin,
) -> Solve:
    reader = FeatureReader(context, settings, start.card, total=len(data))
    flip = settings.few_shot.flip
    found = reader.features(data.images, tower, with_flipped(tower) if flip else None)
    plain, flipped = found.chunk(2, dim=1) if flip else (found, None)

    def solve(number: int, episode: Episode) -> float:
        support, query = torch.from_numpy(episode.support), torch.from_numpy(episode.query)
        return train_head(
            plain[support],
            plain[query],
            support_flipped=None if flipped is None else flipped[support],
            query_flipped=None if flipped is None else flipped[query],
            seed=episode_seed(settings.seed, number),
            training=_training(settings),
        )

    return solve


def _images(
    settings: Finetune,
    start: Probed,
    data: LabelledImages,
    rows: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    device: torch.device,
) -> Tensor:
    """Images of an episode: (N, K, 3, R, R) on the device, for rows (N, K)."""
    batches = image_batches(
        data.images,
        resolution=settings.resolution,
        mean=start.card.mean,
        std=start.card.std,
        batch_size=settings.batch_size,
        indices=rows.ravel().tolist(),
    )
    # Copies: a batch is normalised into memory of its own, but pixels come from a buffer.
    images = torch.cat([batch.to(device) for batch in batches])
    return images.view(*rows.shape, *images.shape[1:])


def _training(settings: Finetune) -> EpisodeTraining:
    chosen = settings.few_shot
    return EpisodeTraining(
        epochs=chosen.epochs,
        batch_size=chosen.support_batch,
        backbone_lr=chosen.tower_lr,
        backbone_momentum=chosen.tower_momentum,
        head_lr=chosen.head_lr,
        head_momentum=chosen.head_momentum,
        weight_decay=chosen.weight_decay,
        dropout=chosen.dropout,
        flip=chosen.flip,
    )


def _metrics(ways: int, shots: int, result: FewShotResult, *, scratch: bool) -> dict[str, float]:
    name = f"few-shot/{ways}-way-{shots}-shot"
    suffix = "/scratch" if scratch else ""
    return {f"{name}{suffix}": result.mean, f"{name}/interval{suffix}": result.interval}
