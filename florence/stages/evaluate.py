"""The evaluation stage: a model and held-out data in, numbers and pictures out."""

from __future__ import annotations

import logging

from florence.config import Evaluate
from florence.config.progress import StageProgress
from florence.errors import ConfigurationError
from florence.evaluation.runner import Progress, evaluate_model
from florence.loading import predictor_of
from florence.stages.context import StageContext
from florence.stages.evaluation import agreed_stop, record_report, write_results
from florence.tasks.kind import Kind

log = logging.getLogger(__name__)


def evaluate(context: StageContext, settings: Evaluate, kind: Kind) -> None:
    """Evaluate the input model and leave ``metrics.json``, pictures and an example picture.

    Raises:
        ConfigurationError: there is no model to evaluate, or the settings do not fit it.
        DataError: data is missing or unreadable.
        StoppedError: the stage was asked to stop; the next attempt starts over.
    """
    if context.input_model is None:
        raise ConfigurationError("dependsOn: an evaluation needs a stage that trains a model")
    context.report(StageProgress(phase="evaluate"))
    stored = context.input_model.open()
    if stored.card.task not in kind.starts_from(settings):
        raise ConfigurationError(
            f"{stored.uri} is a {stored.card.task} model: these evaluations measure "
            f"{' or '.join(kind.starts_from(settings)) or 'no'} models"
        )
    predictor = predictor_of(stored, context.world.device)

    def tell(progress: Progress) -> None:
        context.report(
            StageProgress(
                phase="evaluate", step=progress.done, total=progress.total, samples=progress.done
            )
        )

    report = evaluate_model(
        predictor.module,
        stored.card,
        settings,
        world=context.world,
        s3=context.s3,
        progress=tell,
        stop=agreed_stop(context, "it starts over next time"),
    )
    if not context.world.is_first:
        return
    for name, value in report.metrics.items():
        log.info("%s %.4f", name, value)
    context.recorder.parameters(
        {"stage": settings.wire(), "model": stored.card.architecture.wire()}
    )
    context.recorder.metrics(0, report.metrics)
    context.recorder.evaluated(stored.uri, report.metrics)
    write_results(context, report.metrics, record_report(context, report))
