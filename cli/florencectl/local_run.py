"""Run a job on this machine and tell the user what came of it."""

from __future__ import annotations

import glob
import importlib.util
import os
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from florence.errors import ConfigurationError, MissingExtraError
from florence.home import florence_home
from florence_operator.api import FlorenceJob, State
from florencectl.failures import INTERRUPTED
from florencectl.output import DocumentFormat, note, print_document, print_table
from florencectl.program import program_to_type
from florencectl.run_display import RunDisplay


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
    assert job.status is not None
    results = [
        (stage.name, result, shown(result, value))
        for stage in job.status.stages
        for result, value in stage.metrics.items()
    ]
    if results:
        print_table(["stage", "result", "value"], results)
        sys.stdout.flush()
    model = next((s.model for s in reversed(job.status.stages) if s.model), None)
    if model:
        note(f"\nmodel:    {model}")
        note(f"use it:   {_use(job, model)}")
    note(f"look at it: {program_to_type()} ui")


def _use(job: FlorenceJob, model: str) -> str:
    """The command that classifies a picture with the model; runs as it stands if there is one."""
    from florence_jobs.local.outcome import example_of

    example = example_of(job, str(florence_home() / "artifacts"))
    if example is None:
        return f'{program_to_type()} predict {shlex.quote(model)} IMAGE… --labels "cat,dog"'
    labels = shlex.quote(",".join(example.labels))
    templates = f" --templates {example.prompts}" if example.prompts else ""
    image = shlex.quote(example.image)
    return f"{program_to_type()} predict {shlex.quote(model)} {image} --labels {labels}{templates}"


def shown(result: str, value: float) -> str:
    """Fractions as percentages, everything else with four digits."""
    fraction = any(word in result for word in ("top1", "top5", "meanPerClass", "R@", "baseline"))
    return f"{100 * value:.2f} %" if fraction else f"{value:.4g}"
