"""The evaluation stage: a model and held-out data in, numbers and pictures out."""

from __future__ import annotations

import json
import logging
from typing import Any

from florence.checkpoint import read_final_model
from florence.config import Evaluate
from florence.errors import ConfigurationError, StoppedError
from florence.evaluation.runner import EvaluationReport, Progress, evaluate_model
from florence.models.model_file import read_model
from florence.stages.context import StageContext, StageProgress

log = logging.getLogger(__name__)


def evaluate(context: StageContext, settings: Evaluate) -> None:
    """Evaluate the input model and leave ``metrics.json``, pictures and an example picture.

    Raises:
        ConfigurationError: there is no model to evaluate, or the settings do not fit it.
        DataError: data is missing or unreadable.
        StoppedError: the stage was asked to stop; the next attempt starts over.
    """
    if context.input_model is None:
        raise ConfigurationError("dependsOn: an evaluation needs a stage that trains a model")
    context.report(StageProgress(phase="evaluate"))
    stored = read_final_model(context.input_model)
    model, card = read_model(stored.read, source=stored.uri, device=str(context.world.device))

    def tell(progress: Progress) -> None:
        context.report(
            StageProgress(
                phase="evaluate", step=progress.done, total=progress.total, samples=progress.done
            )
        )

    def stop() -> None:
        if context.stop.requested:
            raise StoppedError("stopped on request during the evaluation: it starts over next time")

    report = evaluate_model(
        model, card, settings, world=context.world, s3=context.s3, progress=tell, stop=stop
    )
    if context.world.is_first:
        _record(context, settings, report)


def _record(context: StageContext, settings: Evaluate, report: EvaluationReport) -> None:
    for name, value in report.metrics.items():
        log.info("%s %.4f", name, value)
    recorder = context.recorder
    recorder.parameters({"stage": settings.wire(), "model": context.architecture.wire()})
    recorder.metrics(0, report.metrics)
    for name, rows in report.tables.items():
        recorder.table(name, rows)
    for name, png in report.pictures.items():
        recorder.picture(name, png)
        context.output.write(f"pictures/{name}.png", png)
    document: dict[str, Any] = {"metrics": report.metrics, "mlflowRun": recorder.run_id}
    if report.example is not None:
        example = report.example
        context.output.write("example.png", example.png)
        document["example"] = {
            "image": "example.png",
            "labels": list(example.labels),
            "prompts": example.prompts,
        }
    # Last: whoever reads the results may take everything beside them for whole.
    context.output.write("metrics.json", json.dumps(document, indent=1).encode())
