"""The body of the components that run a FlorenceJob: from parameters to KFP's artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from florence.errors import ConfigurationError
from florence_jobs.pipelines.requests import named, requested, with_task_settings
from florence_jobs.pipelines.results import JobResults, html_report, markdown_report
from florence_jobs.pipelines.running import OnTermination, exit_code, run_job


@dataclass(frozen=True, slots=True)
class StepOutputs:
    """KFP's artifacts that a step fills; they have a ``path``, a ``uri`` and ``metadata``."""

    model: Any
    metrics: Any
    confusion: Any
    report: Any
    summary: Any


class Done(NamedTuple):
    """What the next steps get as parameters."""

    model_uri: str
    job_name: str
    mlflow_run: str
    results: dict[str, float]


def job_step(
    outputs: StepOutputs,
    *,
    run_id: str,
    task_name: str,
    job: str,
    recipe: str,
    settings: Mapping[str, Any],
    initial_model: str,
    namespace: str,
    on_termination: str,
    task: Mapping[str, Any],
) -> Done:
    """Run a job to its end and fill the step's outputs.

    A failure ends the process with its line on stderr and its exit code: that of the stage that
    failed, 143 where the run was terminated.

    Args:
        task: what was set on the pipeline's task, as in ``kfp.dsl.TaskConfig``.
    """
    with exit_code():
        asked = requested(job, recipe=recipe, settings=settings, initial_model=initial_model)
        asked = with_task_settings(asked, task)
        if namespace:
            metadata = asked.metadata.model_copy(update={"namespace": namespace})
            asked = asked.model_copy(update={"metadata": metadata})
        results = run_job(
            named(asked, run_id, task_name), on_termination=_termination(on_termination)
        )
        fill(outputs, results)
        return Done(results.model, results.job, results.mlflow_run, results.metrics)


def fill(outputs: StepOutputs, results: JobResults) -> None:
    """Write what KFP's pages show of a job."""
    for name, value in results.metrics.items():
        outputs.metrics.log_metric(name, value)
    if results.confusion is not None:
        classes, counts = results.confusion
        outputs.confusion.log_confusion_matrix(list(classes), [list(row) for row in counts])
    Path(outputs.report.path).write_text(html_report(results), encoding="utf-8")
    Path(outputs.summary.path).write_text(markdown_report(results), encoding="utf-8")
    if outputs.model is None:
        return
    # The files stay where the stage left them: KFP knows where that is.
    outputs.model.metadata |= {"job": results.job, "namespace": results.namespace}
    if results.model:
        outputs.model.uri = results.model
    if results.card is not None:
        outputs.model.metadata |= {"task": results.card.task, "card": results.card.wire()}


def _termination(text: str) -> OnTermination:
    try:
        return OnTermination(text)
    except ValueError:
        raise ConfigurationError(
            f"on_termination: '{text}' is none of {', '.join(OnTermination)}"
        ) from None
