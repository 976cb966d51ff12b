"""What a kind of stage that trains brings: the protocols of its code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from florence.config import Evaluate
from florence.data.batch import Batch
from florence.distributed.objective import Objective
from florence.distributed.parameter_rules import ParameterRule
from florence.models.stored import ModelCard, StoredModel
from florence.tasks.inputs import Inputs

BatchT = TypeVar("BatchT", bound=Batch)
BatchT_co = TypeVar("BatchT_co", bound=Batch, covariant=True)


class Stream(Protocol[BatchT_co]):
    """The training data; which samples a step sees is a pure function of (seed, step)."""

    @property
    def uri(self) -> str:
        """Of the data set."""

    @property
    def fingerprint(self) -> str:
        """A digest of which samples there are, wherever they lie."""

    def __len__(self) -> int:
        """Samples of one epoch."""

    def batches(
        self, *, rank: int, size: int, start: int, stop: int
    ) -> AbstractContextManager[Iterator[BatchT_co]]:
        """One rank's batches of the steps ``[start, stop)``."""


class Task(Protocol[BatchT]):
    """The code of a kind that trains.

    A class whose constructor takes (settings, context, card): the stage's settings, a
    :class:`florence.stages.context.StageContext` whose architecture is the one to train, and the
    card of the model that the stage starts from, or ``None``.
    """

    def stream(self) -> Stream[BatchT]:
        """The training data; collective."""

    def model(self, source: StoredModel | None, *, init: bool) -> nn.Module:
        """The module to train, on the CPU.

        Args:
            source: a model whose weights it starts from, where it has them.
            init: whether the rest is initialised from the seed; not so when a checkpoint follows.
        """

    def rules(self, model: nn.Module) -> Sequence[ParameterRule]:
        """How parameters differ in learning rate, decay, freezing and bounds."""

    def objective(self) -> Objective[BatchT]:
        """The loss."""

    def card(self) -> ModelCard:
        """What is said about the finished model."""

    def evaluations(self) -> Evaluate | None:
        """What is measured on held-out data, every ``evaluateEverySteps`` and at the end."""

    def results(self, state: Mapping[str, Tensor]) -> Mapping[str, float]:
        """Numbers about the finished model for the results table, beside those of evaluations."""


class Predictor(Protocol):
    """What ``predict``, ``embed``, MLflow and ``florence.load`` call.

    A class whose constructor takes (stored, device).
    """

    inputs: Inputs
    card: ModelCard
    module: nn.Module

    def predict(
        self, rows: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Answer for every row, in JSON values.

        Args:
            rows: values by column; an image is the bytes of a file, or a Pillow image.
            parameters: values by name, for all rows.

        Raises:
            ValueError: a value is unusable; the message names the row and the column.
        """
