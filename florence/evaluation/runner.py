"""Runs evaluations of a model, over all ranks: in the ``evaluate`` stage, or amid a training."""

from __future__ import annotations

import pkgutil
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from florence.config import Evaluate
from florence.config.storage import S3Settings
from florence.distributed.world import World
from florence.evaluation.context import EvaluationContext, Example, Prepared, Results
from florence.evaluation.models import ModelCard


@dataclass(frozen=True)
class Progress:
    """How far an evaluation is: images and texts that went through the model, on all ranks."""

    evaluation: str
    done: int
    total: int


@dataclass
class EvaluationReport:
    """Results; empty on ranks other than 0.

    ``metrics`` are fractions of 1 by ``<name>/<metric>``; ``tables`` rows and ``pictures`` PNGs by
    name; ``example`` belongs to the first classification.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)
    example: Example | None = None
    files: dict[str, bytes] = field(default_factory=dict)

    def add(self, name: str, results: Results) -> None:
        """Take in the results of the evaluation of that name."""
        self.metrics |= {f"{name}/{key}": value for key, value in results.metrics.items()}
        self.tables |= {f"{name}/{key}": rows for key, rows in results.tables.items()}
        self.pictures |= {f"{name}/{key}": png for key, png in results.pictures.items()}
        self.files |= {f"{name}/{key}": content for key, content in results.files.items()}
        self.example = self.example or results.example


def evaluate_model(
    model: nn.Module,
    card: ModelCard,
    evaluations: Evaluate,
    *,
    world: World,
    s3: S3Settings | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], None] = lambda: None,
) -> EvaluationReport:
    """Run every evaluation. Collective: every rank calls it with the same settings.

    A training loop may call it between steps: nothing about the model or the random state
    changes, and the result is a function of the model and the data alone, whatever the number of
    ranks. All data is opened and all settings are checked before the first image is read.

    Args:
        model: on ``world.device``, without the wrapper of an engine; a two-tower model, or, for
            ``classification``, any module from images to logits.
        card: the model's, for the resolution and the normalisation.
        evaluations: what to run, and how.
        world: the ranks.
        s3: where ``s3://`` data lies.
        progress: called on rank 0 before the first batch and after every one.
        stop: called on every rank after every batch; raises ``StoppedError`` to end here.

    Raises:
        ConfigurationError: settings do not fit the model or the data; names the evaluation.
        DataError: data is missing, broken or does not fit the prompts; names the URI.
        StoppedError: as ``stop`` raised it.
    """
    tally = _Tally(world, progress, stop)
    context = EvaluationContext(
        model=model,
        card=card,
        world=world,
        s3=s3,
        batch_size=evaluations.batch_size,
        resolution=evaluations.resolution or card.resolution,
        precision=evaluations.precision,
        workers=evaluations.workers,
        watch=tally.batch,
    )
    report = EvaluationReport()
    with untouched_randomness(world.device):
        prepared: list[tuple[str, Prepared]] = []
        for kind, one in evaluations.chosen():
            stop()
            prepared.append((one.name, pkgutil.resolve_name(kind.prepare)(context, one)))
        tally.total = sum(work.inputs for _, work in prepared)
        for name, work in prepared:
            tally.begin(name, work.inputs)
            report.add(name, work.run())
            tally.end()
    if world.is_first:
        report.tables["results"] = result_table(report.metrics)
    return report


def result_table(metrics: Mapping[str, float]) -> list[dict[str, Any]]:
    """One row per metric: task, metric, value."""
    rows = []
    for name, value in metrics.items():
        task, _, metric = name.partition("/")
        rows.append({"task": task, "metric": metric, "value": round(value, 6)})
    return rows


@contextmanager
def untouched_randomness(device: torch.device) -> Iterator[None]:
    """Put every generator of this process back as it was, whatever the block draws."""
    python, numpy_state, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)


class _Tally:
    """Counts inputs for rank 0's progress and asks after every batch whether to stop."""

    def __init__(
        self, world: World, progress: Callable[[Progress], None], stop: Callable[[], None]
    ) -> None:
        self._world, self._progress, self._stop = world, progress, stop
        self.total = 0
        self._name, self._before, self._inputs, self._own = "", 0, 0, 0

    def begin(self, name: str, inputs: int) -> None:
        self._name, self._inputs, self._own = name, inputs, 0
        self._tell()

    def batch(self, count: int) -> None:
        self._stop()
        self._own += count
        self._tell()

    def end(self) -> None:
        self._before += self._inputs
        self._inputs = self._own = 0
        self._tell()

    def _tell(self) -> None:
        if self._world.is_first:
            # The other ranks are as far as this one, and shares are filled up to equal sizes.
            done = self._before + min(self._inputs, self._own * self._world.size)
            self._progress(Progress(self._name, done, self.total))
