"""Run a job on this machine and tell the user what came of it."""

from __future__ import annotations

import glob
import importlib.util
import os
import shlex
import signal
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from florence.config import Training
from florence.distributed.schedule import learning_rate
from florence.errors import ConfigurationError, MissingExtraError
from florence.home import florence_home
from florence.kinds import MODEL_TASKS
from florence.tasks.inputs import Inputs, Type, line_of
from florence_operator.api import FlorenceJob, State
from florencectl.checking_data import warn_of_data
from florencectl.detaching import run_detached
from florencectl.display_choice import run_display
from florencectl.failures import INTERRUPTED
from florencectl.output import DocumentFormat, note, print_document, print_table
from florencectl.preflight import check_local
from florencectl.program import local_command, program_to_type
from florencectl.resubmission import resubmitted
from florencectl.run_display import shown

if TYPE_CHECKING:
    from florence_jobs.local import Records
    from florence_jobs.local.outcome import Example


def run_local(
    job: FlorenceJob,
    *,
    again: bool,
    processes: int | None,
    output: DocumentFormat,
    detach: bool = False,
    extend: bool = False,
) -> int:
    """Run, continue or just show the job, print its results, and return the exit code.

    Args:
        job: what is to be run; its record, where there is one, says what of it is done.
        again: forget what an earlier run of it left.
        processes: ranks at most.
        output: how the results are printed.
        detach: let it run on in the background and return.
        extend: train finished stages longer that have more steps now.

    Raises:
        MissingExtraError: torch is not installed.
        ConfigurationError: another job of that name exists, or this one is being run.
        FlorenceError: it could not train here: an engine, its artifacts or its data are missing.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError("torch", "train")
    from florence_jobs.local import Records

    records = Records(florence_home())
    if again:
        _forget(records, job)
    known = records.current(job.namespace, job.metadata.name)
    if known is not None:
        job = _again_with(records, known, job, extend)
    elif extend:
        raise ConfigurationError(f"--extend: job '{job.metadata.name}' has not run here yet")
    return go_on(records, job, processes=processes, output=output, detach=detach)


def go_on(
    records: Records,
    job: FlorenceJob,
    *,
    processes: int | None,
    output: DocumentFormat,
    detach: bool,
) -> int:
    """Run what is left of a job, as :func:`run_local` does."""
    name = job.metadata.name
    if job.status and job.status.phase is State.SUCCEEDED:
        note(f"{name}: already finished; --again runs it once more")
        _tell(job, output)
        return 0
    job = _ready(records, job)
    if detach:
        return run_detached(records, job, processes)
    code, job = run_to_the_end(records, job, processes)
    if code == 0:
        _tell(job, output)
    return code


def _ready(records: Records, job: FlorenceJob) -> FlorenceJob:
    """The job with where it was submitted; refuses what cannot run here."""
    from florence_jobs.local.records import WORKING_DIRECTORY

    records.refuse_owned(job.namespace, job.metadata.name)
    check_local(job, artifacts=records.artifacts_uri)
    warn_of_data(job)
    annotations = {**job.metadata.annotations, WORKING_DIRECTORY: os.getcwd()}
    metadata = job.metadata.model_copy(update={"annotations": annotations})
    return job.model_copy(update={"metadata": metadata})


def run_to_the_end(
    records: Records, job: FlorenceJob, processes: int | None
) -> tuple[int, FlorenceJob]:
    """Run what is left of a job; the exit code, and the job with its status."""
    from florence_jobs.local import LocalRunner, StoppedByUserError

    runner = LocalRunner(records, run_display(), processes=processes or available_devices())
    try:
        job = runner.run(job)
    except StoppedByUserError as stopped:
        asked = stopped.signal or signal.SIGTERM
        return (INTERRUPTED if asked is signal.SIGINT else 128 + asked), job
    if job.status is None or job.status.phase is not State.SUCCEEDED:
        name = job.metadata.name
        why, logs = (local_command(verb, job.namespace, name) for verb in ("why", "logs"))
        note(f"{name}: failed; '{why}' says what to do, '{logs}' prints the log")
        return _exit_code(job), job
    return 0, job


def run_variant(job: FlorenceJob, processes: int | None) -> tuple[int, FlorenceJob]:
    """Run one of several jobs, or what is left of it, and print no results.

    Returns:
        The exit code, and the job with its status.

    Raises:
        ConfigurationError: another job of that name exists, or this one is being run.
    """
    from florence_jobs.local import Records

    records = Records(florence_home())
    known = records.current(job.namespace, job.metadata.name)
    if known is not None:
        job = _again_with(records, known, job, extend=False)
        if job.status and job.status.phase is State.SUCCEEDED:
            note(f"{job.metadata.name}: already finished")
            return 0, job
    return run_to_the_end(records, _ready(records, job), processes)


def available_devices(environment: Mapping[str, str] = os.environ) -> int:
    """How many ranks this machine serves: its visible NVIDIA GPUs, or else its cores."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    gpus = len(glob.glob("/dev/nvidia[0-9]*"))
    if visible is not None:
        gpus = min(gpus, len([device for device in visible.split(",") if device.strip()]))
    return gpus or os.cpu_count() or 1


def _forget(records: Records, job: FlorenceJob) -> None:
    """Delete the job's record and the artifacts of its stages."""
    from florence_jobs.local.removal import delete_job

    known = records.load(job.namespace, job.metadata.name) or job
    delete_job(known, records, artifacts=True)


def _again_with(
    records: Records, known: FlorenceJob, job: FlorenceJob, extend: bool
) -> FlorenceJob:
    """The job over what is known of it here; tells what is kept, and what runs again."""
    from florence_jobs.local.removal import delete_artifacts

    again = resubmitted(known, job, extend=extend)
    if known.status and known.spec != again.job.spec:
        done = [
            s.name for s in (again.job.status or known.status).stages if s.state is State.SUCCEEDED
        ]
        note(f"{job.metadata.name}: settings changed; kept: {', '.join(done) or 'nothing'}")
    for name, steps in again.extended.items():
        config = again.job.spec.stage(name).config
        assert isinstance(config, Training)
        note(f"{name}: {how_it_goes_on(config, steps)}")
    for name in again.repeated:
        note(f"{name}: runs again, since it starts from a stage that is trained longer")
    if again.repeated:
        with records.lock(job.namespace, job.metadata.name):
            delete_artifacts(again.job, records.artifacts_uri, again.repeated)
            records.save(again.job)
    return again.job


def how_it_goes_on(config: Training, steps: int) -> str:
    """What a stage that had ``steps`` steps and has more now does to the learning rate."""
    total = config.steps or steps
    before = config.model_copy(update={"steps": steps}).optimizer
    last = learning_rate(steps - 1, steps, before)
    first, end = (learning_rate(step, total, config.optimizer) for step in (steps, total - 1))
    return (
        f"goes on from step {steps} to {total}; its {config.optimizer.schedule} schedule is that "
        f"of {total} steps: the learning rate was {last:.3g} at its end, is {first:.3g} now and "
        f"{end:.3g} at the last step"
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
