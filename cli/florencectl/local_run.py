"""Run a job on this machine and tell the user what came of it."""

from __future__ import annotations

import glob
import importlib.util
import os
import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from florence.errors import ConfigurationError, MissingExtraError
from florence.home import florence_home
from florence.kinds import MODEL_TASKS
from florence.tasks.inputs import Inputs, Type, line_of
from florence_operator.api import FlorenceJob, State
from florencectl.failures import INTERRUPTED
from florencectl.output import DocumentFormat, note, print_document, print_table
from florencectl.program import program_to_type
from florencectl.run_display import RunDisplay

if TYPE_CHECKING:
    from florence_jobs.local.outcome import Example


def run_local(
    job: FlorenceJob, *, again: bool, processes: int | None, output: DocumentFormat
) -> int:
    """Run, continue or just show the job, print its results, and return the exit code.

    Raises:
        MissingExtraError: torch is not installed.
        ConfigurationError: another job of that name exists.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError("torch", "train")
    from florence_jobs.local import LocalRunner, Records, StoppedByUserError

    records = Records(florence_home())
    name = job.metadata.name
    if again:
        _forget(records, job)
    known = records.load(job.namespace, name)
    if known is not None:
        _refuse_other(known, job)
        if known.status and known.status.phase is State.SUCCEEDED:
            note(f"{name}: already finished; --again runs it once more")
            _tell(known, output)
            return 0
        job = known
    runner = LocalRunner(records, RunDisplay(), processes=processes or available_devices())
    try:
        job = runner.run(job)
    except StoppedByUserError:
        return INTERRUPTED
    if job.status is None or job.status.phase is not State.SUCCEEDED:
        note(f"{name}: failed; 'florencectl logs {name}' prints the log")
        return _exit_code(job)
    _tell(job, output)
    return 0


def available_devices(environment: Mapping[str, str] = os.environ) -> int:
    """How many ranks this machine serves: its visible NVIDIA GPUs, or else its cores."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    gpus = len(glob.glob("/dev/nvidia[0-9]*"))
    if visible is not None:
        gpus = min(gpus, len([device for device in visible.split(",") if device.strip()]))
    return gpus or os.cpu_count() or 1


def _forget(records: Any, job: FlorenceJob) -> None:
    """Delete the job's record and the artifacts of its stages."""
    from florence_jobs.local.removal import delete_artifacts

    known = records.load(job.namespace, job.metadata.name) or job
    with records.lock(job.namespace, job.metadata.name):
        delete_artifacts(known, records.artifacts_uri)
        records.delete(job.namespace, job.metadata.name)


def _refuse_other(known: FlorenceJob, job: FlorenceJob) -> None:
    if known.spec != job.spec:
        raise ConfigurationError(
            f"job '{job.metadata.name}' was run here with other settings: give this one "
            "another name, "
            f"run it with --again, or delete the old one (florencectl delete {job.metadata.name})"
        )


def _exit_code(job: FlorenceJob) -> int:
    for stage in job.status.stages if job.status else ():
        if stage.state is State.FAILED and stage.attempts:
            return stage.attempts[-1].exit_code or 1
    return 1


def _tell(job: FlorenceJob, output: DocumentFormat) -> None:
    """Print the results: a table with how to go on, or the job as a document."""
    if output is not DocumentFormat.TABLE:
        print_document(job.wire(defaults=False), output)
        return
    from florence_jobs.local.outcome import example_of

    assert job.status is not None
    results = [
        (stage.name, result, shown(result, value))
        for stage in job.status.stages
        for result, value in stage.metrics.items()
    ]
    if results:
        print_table(["stage", "result", "value"], results)
        sys.stdout.flush()
    made = next((s for s in reversed(job.status.stages) if s.model), None)
    if made is not None and made.model is not None:
        note(f"\nmodel:    {made.model}")
        task = MODEL_TASKS.get(job.spec.stage(made.name).model_task or "")
        if task is not None:
            example = example_of(job, str(florence_home() / "artifacts"))
            endpoint = job.spec.artifacts.endpoint
            note(f"use it:   {command_to_use(made.model, task.inputs, example, endpoint)}")
    note(f"look at it: {program_to_type()} ui")


_PLACEHOLDERS: dict[Type, str] = {
    "text": "TEXT",
    "texts": "cat,dog",
    "templates": "imagenet",
    "number": "0.5",
    "integer": "1",
}


def command_to_use(
    model: str, inputs: Inputs, example: Example | None, endpoint: str | None = None
) -> str:
    """The command that predicts with a model; it runs as it stands where there is an example.

    Args:
        inputs: what the model's task takes: only what it needs, or what the example says, is named.
        example: a picture, and what it was shown with.
        endpoint: the S3 service that ``s3://`` models are on, where it is not the environment's.
    """
    said = {} if example is None else {"labels": line_of(example.labels)}
    if example is not None and example.prompts:
        said["templates"] = example.prompts
    words = ["predict", shlex.quote(model)]
    words.append("IMAGE…" if example is None else shlex.quote(example.image))
    for given in inputs.given:
        value = said.get(given.name) or (_PLACEHOLDERS[given.type] if given.required else None)
        if value is not None:
            words += [f"--{given.name.replace('_', '-')}", shlex.quote(value)]
    if endpoint is not None and model.startswith("s3://"):
        words += ["--endpoint", shlex.quote(endpoint)]
    return " ".join([program_to_type(), *words])


_FRACTIONS = ("top1", "top5", "meanPerClass", "mAP", "R@", "accuracy", "shot", "baseline")
"""In the names of results that are fractions of 1."""


def shown(result: str, value: float) -> str:
    """Fractions as percentages, everything else with four digits."""
    fraction = any(word in result for word in _FRACTIONS)
    return f"{100 * value:.2f} %" if fraction else f"{value:.4g}"
