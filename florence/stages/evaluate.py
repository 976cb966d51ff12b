"""The evaluation stage: a model and held-out data in, numbers and pictures out."""

from __future__ import annotations

import json
import logging
from typing import Any

from florence.checkpoint import read_final_model
from florence.config import Evaluate
from florence.errors import ConfigurationError
from florence.evaluation.report import EvaluationReport, run_evaluation
from florence.models.stored import read_model
from florence.stages.context import StageContext, StageProgress

log = logging.getLogger(__name__)


def evaluate(context: StageContext, settings: Evaluate) -> None:
    """Evaluate the input model and leave ``metrics.json``, pictures and an example picture.

    Raises:
        ConfigurationError: there is no model to evaluate, or prompts cannot be read.
        DataError: data is missing or unreadable.
    """
    if context.input_model is None:
        raise ConfigurationError("dependsOn: an evaluation needs a stage that trains a model")
    total = len(settings.zero_shot) + len(settings.retrieval)
    context.report(StageProgress(phase="evaluate", total=total))
    stored = read_final_model(context.input_model)
    model, card = read_model(stored.read, source=stored.uri, device=str(context.world.device))
    report = run_evaluation(
        model,
        card,
        settings,
        world=context.world,
        s3=context.s3,
        done=lambda count: context.report(StageProgress(phase="evaluate", step=count, total=total)),
    )
    if context.world.is_first:
        _record(context, settings, report)
    context.report(StageProgress(phase="evaluate", step=total, total=total))


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
