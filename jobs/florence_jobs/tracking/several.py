"""Several recorders as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from florence.stages.context import Recorder


class ClosableRecorder(Recorder, Protocol):
    """A recorder that must be closed at the end."""

    def close(self, status: str, problem: str | None = None) -> None:
        """Deliver what waits, within a time limit.

        Args:
            status: FINISHED, FAILED or KILLED.
            problem: why the stage failed or stopped.
        """


class SeveralRecorders:
    """Records everything with each of them; the first one's run is that of the results.

    None at all records nothing: ranks other than 0, and runs that are not tracked.
    """

    def __init__(self, recorders: Sequence[ClosableRecorder] = ()) -> None:
        self._recorders = tuple(recorders)

    @property
    def run_id(self) -> str | None:
        return next((r.run_id for r in self._recorders if r.run_id is not None), None)

    def parameters(self, parameters: Mapping[str, Any]) -> None:
        for recorder in self._recorders:
            recorder.parameters(parameters)

    def dataset(self, uri: str, fingerprint: str, samples: int, context: str) -> None:
        for recorder in self._recorders:
            recorder.dataset(uri, fingerprint, samples, context)

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        for recorder in self._recorders:
            recorder.metrics(step, metrics)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        for recorder in self._recorders:
            recorder.table(name, rows)

    def picture(self, name: str, png: bytes) -> None:
        for recorder in self._recorders:
            recorder.picture(name, png)

    def checkpoint(self, uri: str, step: int, metrics: Mapping[str, float]) -> None:
        for recorder in self._recorders:
            recorder.checkpoint(uri, step, metrics)

    def model(self, files: Mapping[str, bytes], uri: str) -> None:
        for recorder in self._recorders:
            recorder.model(files, uri)

    def evaluated(self, uri: str, metrics: Mapping[str, float]) -> None:
        for recorder in self._recorders:
            recorder.evaluated(uri, metrics)

    def close(self, status: str, problem: str | None = None) -> None:
        for recorder in self._recorders:
            recorder.close(status, problem)
