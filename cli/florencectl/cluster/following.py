"""Watch a job until it is where the user wants it to be, and show how far it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from florence_operator.api import JobStatus, State
from florence_operator.api.status import StageStatus
from florence_operator.api.times import unix
from florencectl.cause_texts import happened
from florencectl.cluster.connection import Place, on_cluster
from florencectl.cluster.errors import FAILED, TIMED_OUT, NotFoundError
from florencectl.cluster.jobs import get_job, status_of
from florencectl.cluster.watching import changes
from florencectl.display_choice import run_display
from florencectl.output import note
from florencectl.program import program_name
from florencectl.run_display import RunDisplay, duration

if TYPE_CHECKING:
    from florence_operator.kube.client import Client

Document = Mapping[str, Any]

TERMINAL = (State.SUCCEEDED, State.FAILED)
GOALS: dict[str, tuple[State, ...]] = {
    "succeeded": (State.SUCCEEDED,),
    "finished": TERMINAL,
    "running": (State.RUNNING,),
    "suspended": (State.SUSPENDED,),
}


def wait_for(place: Place, name: str, goal: str, timeout: float | None, *, show: bool) -> int:
    """Wait until the job is in a state of ``goal`` and return the exit code; tell why it is not."""
    last: list[JobStatus] = []

    async def wait(client: Client, namespace: str) -> int:
        await get_job(client, namespace, name)
        teller = Teller(run_display()) if show else None
        waiting = _watch(client, namespace, name, GOALS[goal], teller, last)
        try:
            return await asyncio.wait_for(waiting, timeout)
        except TimeoutError:
            state = last[-1].phase.value if last else "unknown"
            note(
                f"waited {duration(timeout or 0)} for job '{name}' ({goal}): it is {state}; "
                f"'{program_name()} why {name}' tells why"
            )
            return TIMED_OUT

    return on_cluster(place, wait)


async def follow(client: Client, namespace: str, name: str) -> tuple[int, Document]:
    """Show a job's stages and progress until it ends; the exit code, and the job as it ended."""
    seen: list[JobStatus] = []
    code = await _watch(client, namespace, name, TERMINAL, Teller(run_display()), seen)
    job = await get_job(client, namespace, name)
    return (code if status_of(job).phase is State.SUCCEEDED else FAILED), job


async def _watch(
    client: Client,
    namespace: str,
    name: str,
    goal: tuple[State, ...],
    teller: Teller | None,
    seen: list[JobStatus],
) -> int:
    async for batch in changes(client, namespace, name=name):
        for kind, job in batch:
            if kind == "DELETED":
                raise NotFoundError(f"job '{name}' was deleted")
            status = status_of(job)
            seen[:] = [status]
            if teller:
                teller.tell(status)
            code = verdict(job, goal)
            if code is not None:
                if code:
                    note(_missed(name, status))
                return code
    raise AssertionError("a watch does not end by itself")


def verdict(job: Document, goal: tuple[State, ...]) -> int | None:
    """The exit code of waiting for ``goal``; None while it may still be reached.

    A status of an older spec does not count: the operator has not seen what was asked last.
    """
    status = status_of(job)
    generation = (job.get("metadata") or {}).get("generation")
    if status.observed_generation is None or (
        generation is not None and status.observed_generation < generation
    ):
        return None
    if status.phase in goal:
        return FAILED if status.phase is State.FAILED and State.SUCCEEDED in goal else 0
    return FAILED if status.phase.terminal else None


def _missed(name: str, status: JobStatus) -> str:
    if status.phase is State.FAILED:
        return f"job '{name}' failed; '{program_name()} why {name}' tells why"
    return f"job '{name}' is over: it is {status.phase.value}"


class Teller:
    """Tells what changed between two looks at a job."""

    def __init__(self, display: RunDisplay) -> None:
        self._display = display
        self._before: dict[str, StageStatus] = {}

    def tell(self, status: JobStatus) -> None:
        """Show what is new."""
        for stage in status.stages:
            before = self._before.get(stage.name)
            if stage == before:
                continue
            line = news(before, stage)
            if line:
                self._display.note(line)
            if stage.state is State.RUNNING and stage.progress:
                self._display.progress(stage.name, stage.progress)
            self._before[stage.name] = stage


def news(before: StageStatus | None, now: StageStatus) -> str:
    """One line on a stage whose state (or attempt) changed; empty when neither did."""
    same = before is not None and before.state == now.state
    if same and before is not None and before.last_number == now.last_number:
        return ""
    text = _NEWS.get(now.state, _another)(now)
    return f"{now.name}: {text}" if text else ""


def _attempt(stage: StageStatus) -> str:
    number = stage.attempts[-1].number if stage.attempts else 1
    return f" (attempt {number})" if number > 1 else ""


def _because(stage: StageStatus) -> str:
    return f": {stage.message}" if stage.message else ""


def _recovering(stage: StageStatus) -> str:
    failed = next((a for a in reversed(stage.attempts) if a.cause), None)
    return (
        f"{happened(failed)}; it is tried again" if failed else f"is tried again{_because(stage)}"
    )


def _failed(stage: StageStatus) -> str:
    failed = next((a for a in reversed(stage.attempts) if a.cause), None)
    return f"failed: {happened(failed)}" if failed else f"failed{_because(stage)}"


def _succeeded(stage: StageStatus) -> str:
    if not stage.attempts:
        return "succeeded"
    first = stage.dropped or stage.attempts[0]
    begun, ended = unix(first.start_time), unix(stage.attempts[-1].completion_time)
    return f"succeeded in {duration(ended - begun)}" if begun and ended else "succeeded"


def _another(stage: StageStatus) -> str:
    return f"{stage.state.value}{_because(stage)}"


_NEWS: dict[State, Callable[[StageStatus], str]] = {
    State.PENDING: lambda stage: stage.message or "",
    State.QUEUED: lambda stage: f"queued{_because(stage)}",
    State.STARTING: lambda stage: f"starting{_attempt(stage)}",
    State.RUNNING: lambda stage: f"running{_attempt(stage)}",
    State.STALLED: lambda stage: f"stalled{_because(stage)}",
    State.RECOVERING: _recovering,
    State.SUCCEEDED: _succeeded,
    State.FAILED: _failed,
    State.SUSPENDED: lambda stage: stage.message or "suspended",
}
