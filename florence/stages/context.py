"""What a stage is given and what it reports to: the seam between science and surroundings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from florence.config import Architecture
from florence.config.progress import StageProgress
from florence.config.storage import S3Settings
from florence.distributed.world import World
from florence.models.opening import open_stored, read_card
from florence.models.stored import ModelCard, StoredModel
from florence.storage import Storage


class Recorder(Protocol):
    """Where rank 0's results go. No method blocks on a network or raises."""

    def parameters(self, parameters: Mapping[str, Any]) -> None:
        """Record the settings of the run, nested as they are."""

    def dataset(self, uri: str, fingerprint: str, samples: int, context: str) -> None:
        """Record which data was read."""

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record values at a step."""

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Record a table of results."""

    def picture(self, name: str, png: bytes) -> None:
        """Record a picture."""

    def checkpoint(self, uri: str, step: int, metrics: Mapping[str, float]) -> None:
        """Record a commit of the training state."""

    @property
    def run_id(self) -> str | None:
        """Where the results can be looked at; ``None`` when nowhere."""

    def model(self, files: Mapping[str, bytes], uri: str) -> None:
        """Record the final model."""

    def evaluated(self, uri: str, metrics: Mapping[str, float]) -> None:
        """Record what was measured of the model at a URI, which another stage may have left."""


@dataclass(frozen=True, slots=True)
class InputModel:
    """A model by its URI: that of a folder with its files, or of a stage's artifacts."""

    uri: str
    s3: S3Settings

    def card(self) -> ModelCard:
        """Everything about it but its weights. Raises :class:`DataError` when there is none."""
        return read_card(self.uri, self.s3)

    def open(self) -> StoredModel:
        """The whole model. Raises :class:`DataError` when it is missing or broken."""
        return open_stored(self.uri, self.s3)


class Stop:
    """A request to stop after the current step, set by a signal handler."""

    def __init__(self) -> None:
        self.requested = False

    def request(self, *_: object) -> None:
        """Ask the stage to checkpoint and stop; safe to call from a signal handler."""
        self.requested = True


@dataclass(frozen=True, kw_only=True, slots=True)
class StageContext:
    """Everything around a stage that is not its own settings."""

    architecture: Architecture
    """The model's sizes."""
    output: Storage
    """The stage's artifacts."""
    input_model: InputModel | None
    """The model that this stage starts from."""
    s3: S3Settings
    """Where ``s3://`` data lives."""
    attempt: int
    """1 for the first; orders commits of attempts that overlap."""
    provenance: Mapping[str, str]
    """Job, stage and whatever else a model's card should say about its origin."""
    world: World
    recorder: Recorder
    report: Callable[[StageProgress], None]
    """Called on rank 0 with every change of progress; must not block."""
    clock: Callable[[], float]
    """Unix seconds."""
    stop: Stop = field(default_factory=Stop)
