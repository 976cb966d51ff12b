"""What of a job may still change once its stages have started."""

from __future__ import annotations

from collections.abc import Iterator

from florence_operator.api.status import JobStatus, State
from florence_operator.api.v1alpha1 import FlorenceJob, Stage

RESIZABLE = (State.PENDING, State.SUSPENDED, State.FAILED)
"""States of a stage that has attempts and yet no pods: the next attempt may get other resources."""

EDITABLE = (State.FAILED,)
"""States of a stage that has attempts and may yet be corrected."""


def refused_changes(before: FlorenceJob, after: FlorenceJob) -> Iterator[str]:
    """What a change alters that has to stay, each with the path of its field.

    The CRD has the same as transition rules, which cannot name the stage.
    """
    if after.spec.run_policy.retry < before.spec.run_policy.retry:
        yield "spec.runPolicy.retry: may only grow: each raise is one request"
    if after.spec.managed_by != before.spec.managed_by:
        yield "spec.managedBy: cannot be changed: make a job under another name"
    status = before.status or JobStatus()
    started = [stage for stage in before.spec.stages if status.stage(stage.name).attempts]
    if not started:
        return
    again = "make a job under another name"
    if after.spec.model != before.spec.model:
        yield f"spec.model: cannot be changed once a stage has started: {again}"
    if after.spec.artifacts.uri != before.spec.artifacts.uri:
        yield f"spec.artifacts.uri: cannot be changed once a stage has started: {again}"
    for old in started:
        place = next(
            ((i, stage) for i, stage in enumerate(after.spec.stages) if stage.name == old.name),
            None,
        )
        if place is None:
            yield f"spec.stages: '{old.name}' has started and cannot be removed or renamed"
        else:
            yield from _stage_changed(
                f"spec.stages[{place[0]}]", old, place[1], status.stage(old.name).state
            )


def _stage_changed(field: str, old: Stage, new: Stage, state: State) -> Iterator[str]:
    instead = "add a stage, or make another job"
    if new.depends_on != old.depends_on:
        yield f"{field}.dependsOn: cannot be changed once the stage has started: {instead}"
    if state not in EDITABLE:
        again = f"cannot be changed once the stage has started, unless it has failed: {instead}"
        if new.initial_model != old.initial_model:
            yield f"{field}.initialModel: {again}"
        if new.kind is not old.kind or new.config != old.config:
            yield f"{field}.{new.kind.name}: {again}"
    if new.resources != old.resources and state not in RESIZABLE:
        yield (
            f"{field}.resources: cannot be changed while the stage is at work: set "
            "spec.runPolicy.suspend first, or wait until it has failed"
        )
