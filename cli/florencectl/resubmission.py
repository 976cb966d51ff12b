"""A job of this machine that is submitted once more: what is kept of it, and what runs again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from florence.config import ChangedSettings, Training
from florence.config.base import resume_fingerprint
from florence.errors import ConfigurationError
from florence_operator.api import FlorenceJob, JobStatus, Stage, State
from florence_operator.api.changes import refused_changes
from florencectl.program import local_command


@dataclass(frozen=True, slots=True)
class Resubmission:
    """The job as it is wanted now, with what its stages did before.

    Attributes:
        job: to be run.
        extended: finished stages that are trained longer, by name: the steps they had.
        repeated: finished stages that run anew, since they started from one that is extended.
    """

    job: FlorenceJob
    extended: dict[str, int] = field(default_factory=dict)
    repeated: tuple[str, ...] = ()


def resubmitted(known: FlorenceJob, job: FlorenceJob, *, extend: bool) -> Resubmission:
    """Put a job over the one of its name that ran here.

    Stages that failed or have not begun may be changed, and so may settings of finished ones that
    did not decide their result. With ``extend`` a finished stage may have more steps than it had.

    Raises:
        ConfigurationError: the change alters what was done; names the fields and the ways out.
    """
    status = known.status or JobStatus()
    wanted = []
    extended: dict[str, int] = {}
    for stage in job.spec.stages:
        before = next((old for old in known.spec.stages if old.name == stage.name), None)
        finished = before is not None and status.stage(stage.name).state is State.SUCCEEDED
        if not finished or before is None or before == stage:
            wanted.append(stage)
        elif _results_alike(before, stage):
            wanted.append(before)
        elif extend and (longer := _longer(before, stage)) is not None:
            extended[stage.name] = before.config.planned_steps or 0
            wanted.append(longer)
        else:
            wanted.append(stage)
    if extend and not extended:
        raise ConfigurationError(
            "--extend: no finished stage has more steps than it had: raise its steps in the file, "
            "or with --set STAGE.steps=N, and leave its other settings as they were"
        )
    spec = job.spec.model_copy(update={"stages": tuple(wanted)})
    asked = job.model_copy(update={"spec": spec})
    _refuse(_with_state(known, extended, State.FAILED), asked)
    repeated = tuple(
        stage.name
        for stage in spec.in_order()
        if status.stage(stage.name).state is State.SUCCEEDED
        and stage.name not in extended
        and _starts_from(spec.stages, stage, extended)
    )
    after = _with_state(known, (*extended, *repeated), State.PENDING)
    return Resubmission(after.model_copy(update={"spec": spec}), extended, repeated)


def _refuse(known: FlorenceJob, job: FlorenceJob) -> None:
    refused = list(refused_changes(known, job))
    if not refused:
        return
    name = job.metadata.name
    delete = local_command("delete", job.namespace, name, "--artifacts")
    raise ConfigurationError(
        f"job '{name}' was run here with other settings ({'; '.join(refused)}): give this one "
        "another name, run it with --again, or delete the old one with what it trained "
        f"({delete})"
    )


def _results_alike(before: Stage, stage: Stage) -> bool:
    """Whether two stages differ in nothing that decides what they leave."""
    outside = {"resources": stage.resources, stage.kind.name: stage.config}
    same = stage.kind is before.kind and before.model_copy(update=outside) == stage
    return same and resume_fingerprint(before.config) == resume_fingerprint(stage.config)


def _longer(before: Stage, stage: Stage) -> Stage | None:
    """The stage, set to go on from its last checkpoint, if it has more steps and nothing else."""
    old, new = before.config, stage.config
    if not isinstance(old, Training) or not isinstance(new, Training):
        return None
    if old.steps is None or new.steps is None or new.steps <= old.steps:
        return None
    same = stage.model_copy(update={stage.kind.name: new.model_copy(update={"steps": old.steps})})
    if not _results_alike(before, same):
        return None
    policy = new.checkpoints.model_copy(update={"if_settings_changed": ChangedSettings.CONTINUE})
    return stage.model_copy(
        update={stage.kind.name: new.model_copy(update={"checkpoints": policy})}
    )


def _starts_from(stages: tuple[Stage, ...], stage: Stage, extended: dict[str, int]) -> bool:
    """Whether what a stage starts from, directly or not, is one that is extended."""
    by_name = {each.name: each for each in stages}
    return any(
        name in extended or _starts_from(stages, by_name[name], extended)
        for name in stage.depends_on
    )


def _with_state(job: FlorenceJob, names: Iterable[str], state: State) -> FlorenceJob:
    """The job with some of its stages in another state."""
    if job.status is None:
        return job
    chosen = set(names)
    stages = tuple(
        stage.model_copy(update={"state": state}) if stage.name in chosen else stage
        for stage in job.status.stages
    )
    phase = State.PENDING if chosen else job.status.phase
    status = job.status.model_copy(update={"stages": stages, "phase": phase})
    return job.model_copy(update={"status": status})
