"""The newest report of every attempt that goes on."""

from __future__ import annotations

from enum import StrEnum

from florence.config.base import Settings, setting
from florence.config.progress import StageProgress
from florence_operator.observe.observation import Report
from florence_operator.runtime.store import Key


class Posted(Settings):
    """What a pod posts."""

    namespace: str = setting(description="namespace of the job")
    job: str = setting(description="name of the job")
    uid: str = setting(description="uid of the job")
    stage: str = setting(description="name of the stage")
    attempt: int = setting(description="number of the attempt", ge=1)
    progress: StageProgress = setting(description="how far it is")


class News(StrEnum):
    """How soon a report makes its job worth a look."""

    NOW = "now"
    """It is the first, or the first after a silence."""
    IN_TURN = "in turn"
    """It only got further: that is looked at when it may be written."""
    NONE = "none"


class ProgressBook:
    """The newest report of every attempt that goes on; lost with the process, and soon told again.

    Asking it costs nothing, so the reconciler does so at every look.

    Args:
        silence: seconds after which an attempt that does not report counts as not heard.
    """

    def __init__(self, silence: float = 120.0) -> None:
        self._silence = silence
        self._reports: dict[Key, dict[tuple[str, str, int], Report]] = {}

    def take(self, posted: Posted, now: float) -> News:
        """Keep a report; how soon the job has to be looked at because of it.

        That an attempt did not get further counts from one report to the next: after a silence it
        begins anew.
        """
        reports = self._reports.setdefault(Key(posted.namespace, posted.job), {})
        place = (posted.uid, posted.stage, posted.attempt)
        known = reports.get(place)
        moved = known is None or _position(known.progress) != _position(posted.progress)
        again = known is None or now - known.heard >= self._silence
        received = now if moved or known is None or again else known.received
        for other in [p for p in reports if p[0] != posted.uid or p[1] == posted.stage]:
            # A stage has one attempt at a time, and a name one job.
            del reports[other]
        reports[place] = Report(progress=posted.progress, received=received, heard=now)
        if known is None or again:
            return News.NOW
        return News.IN_TURN if known.progress != posted.progress else News.NONE

    def of(self, key: Key, uid: str) -> dict[tuple[str, int], Report]:
        """The reports of a job, by stage and attempt."""
        reports = self._reports.get(key, {})
        return {(p[1], p[2]): report for p, report in reports.items() if p[0] == uid}

    def forget(self, key: Key) -> None:
        """The job is gone or over."""
        self._reports.pop(key, None)


def _position(progress: StageProgress) -> tuple[object, ...]:
    return (
        progress.step,
        progress.phase,
        progress.phase_fraction,
        progress.samples,
        progress.checkpoint_step,
    )
