"""Evaluations within stages: of a finished model, or of one that is being trained."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch

from florence.config import Training
from florence.distributed.engine import Engine
from florence.errors import StoppedError
from florence.evaluation.runner import EvaluationReport, evaluate_model
from florence.stages.context import StageContext
from florence.tasks.task import Task

log = logging.getLogger(__name__)


class HeldOut:
    """Measures a model in training on held-out data, with the evaluations of its task."""

    def __init__(
        self, context: StageContext, settings: Training, task: Task[Any], engine: Engine
    ) -> None:
        self._context = context
        self._evaluation = task.evaluations()
        self._card = task.card()
        self._engine = engine
        self._report = EvaluationReport()

    @property
    def is_wanted(self) -> bool:
        """Whether there is anything to measure."""
        return self._evaluation is not None

    def evaluate(self, step: int, on_progress: Callable[[int, int], None]) -> Mapping[str, float]:
        """Measure after a step and record it with its pictures; collective.

        The first metric is the one that counts.

        Args:
            on_progress: told inputs done and in all, on rank 0.

        Returns:
            On every rank, fractions of 1 by ``<evaluation>/<metric>``.

        Raises:
            StoppedError: the stage was asked to stop meanwhile.
        """
        assert self._evaluation is not None
        with self._engine.inference() as model:
            report = evaluate_model(
                model,
                self._card,
                self._evaluation,
                world=self._context.world,
                s3=self._context.s3,
                progress=lambda progress: on_progress(progress.done, progress.total),
                stop=agreed_stop(self._context, "the model is evaluated again next time"),
            )
        self._report = report
        metrics = self._context.world.broadcast_object(report.metrics)
        if self._context.world.is_first:
            self._context.recorder.metrics(
                step, {f"validation/{name}": value for name, value in metrics.items()}
            )
            for name, png in report.pictures.items():
                self._context.recorder.picture(f"steps/{step}/{name}", png)
            found = ", ".join(f"{name} {value:.4f}" for name, value in list(metrics.items())[:3])
            log.info("Step %d: %s", step, found)
        return metrics

    def record(self) -> dict[str, Any]:
        """Write the newest evaluation's pictures and tables; what ``metrics.json`` gets of it."""
        return record_report(self._context, self._report)


def agreed_stop(context: StageContext, then: str) -> Callable[[], None]:
    """A callable for every rank to call equally often: raises on all when any was asked to stop."""

    def stop() -> None:
        requested = torch.tensor([float(context.stop.requested)], device=context.world.device)
        if context.world.all_reduce_sum(requested).item():
            raise StoppedError(f"stopped on request during an evaluation: {then}")

    return stop


def record_report(context: StageContext, report: EvaluationReport) -> dict[str, Any]:
    """Keep tables, pictures and the example of a report; on rank 0.

    Returns:
        What ``metrics.json`` says beside the metrics.
    """
    for name, rows in report.tables.items():
        context.recorder.table(name, rows)
        context.output.write(f"tables/{name}.json", json.dumps(rows).encode())
    for name, png in report.pictures.items():
        context.recorder.picture(name, png)
        context.output.write(f"pictures/{name}.png", png)
    for name, content in report.files.items():
        context.output.write(f"results/{name}", content)
    if report.example is None:
        return {}
    example = report.example
    context.output.write("example.png", example.png)
    return {
        "example": {
            "image": "example.png",
            "labels": list(example.labels),
            "prompts": example.prompts,
        }
    }


def write_results(
    context: StageContext, metrics: Mapping[str, float], beside: Mapping[str, Any]
) -> None:
    """Write ``metrics.json``, last: whoever reads it may take everything beside it for whole."""
    document = {"metrics": dict(metrics), "mlflowRun": context.recorder.run_id, **beside}
    context.output.write("metrics.json", json.dumps(document, indent=1).encode())
