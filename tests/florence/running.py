"""What surrounds a stage that a test runs: artifacts in a folder, and a recorder that remembers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from florence.config.model import Architecture
from florence.config.progress import StageProgress
from florence.config.storage import S3Settings
from florence.distributed.world import World
from florence.stages.context import InputModel, StageContext, Stop
from florence.storage import open_storage

EVEN = {"lr": 2e-3, "warmupSteps": 2, "eps": 1e-4}
"""An optimizer whose steps grow with the gradient: Adam's usual ones make rounding visible, for a
gradient near zero is divided by its own size."""


class Recording:
    """A recorder that remembers."""

    run_id = None

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}
        self.values: dict[int, Mapping[str, float]] = {}
        self.tables: dict[str, Sequence[Mapping[str, Any]]] = {}
        self.checkpoints: list[int] = []
        self.files: Mapping[str, bytes] = {}

    def parameters(self, parameters: Mapping[str, Any]) -> None:
        self.given.update(parameters)

    def dataset(self, uri: str, fingerprint: str, samples: int, context: str) -> None:
        self.given["dataset"] = (uri, samples)

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self.values[step] = {**self.values.get(step, {}), **metrics}

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self.tables[name] = rows

    def picture(self, name: str, png: bytes) -> None: ...

    def evaluated(self, uri: str, metrics: Mapping[str, float]) -> None: ...

    def checkpoint(self, uri: str, step: int, metrics: Mapping[str, float]) -> None:
        self.checkpoints.append(step)

    def model(self, files: Mapping[str, bytes], uri: str) -> None:
        self.files = files


def stage_context(
    folder: Path,
    architecture: Architecture,
    *,
    attempt: int = 1,
    start: Path | None = None,
    world: World | None = None,
    report: Callable[[StageProgress], None] = lambda progress: None,
    stop: Stop | None = None,
) -> StageContext:
    """A stage's surroundings, with artifacts in a folder.

    Args:
        start: folder of the model that it starts from.
    """
    return StageContext(
        architecture=architecture,
        output=open_storage(str(folder)),
        input_model=InputModel(str(start), S3Settings()) if start else None,
        s3=S3Settings(),
        attempt=attempt,
        provenance={"job": "test", "stage": "tested"},
        world=world or World(),
        recorder=Recording(),
        report=report,
        clock=time.time,
        stop=stop or Stop(),
    )
