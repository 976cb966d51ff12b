"""Which classes a stage tells apart, and which of them each class of the data is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from florence.data.members import is_beyond_all
from florence.data.shards import ShardSet
from florence.errors import DataError
from florence.evaluation.class_names import class_numbers
from florence.evaluation.prompts import Prompts, load_prompts
from florence.stages.context import StageContext
from florence.tasks.finetune.settings import Finetune


@dataclass(frozen=True)
class Classes:
    """The classes of a stage.

    Attributes:
        prompts: their names, in the order of a head's outputs, and templates.
        numbers: int64, for each class of the data its place among them.
    """

    prompts: Prompts
    numbers: NDArray[np.int64]

    @property
    def names(self) -> tuple[str, ...]:
        """By output."""
        return self.prompts.classes


def classes_of(
    prompts: Prompts | None,
    names: Sequence[str] | None,
    labels: NDArray[np.int64],
    *,
    data: str,
) -> Classes:
    """The classes that prompts name, or failing those the data itself.

    Args:
        prompts: what the classes are called, where that is decided.
        names: the data's, by its class numbers; without them numbers are taken as they are.
        labels: the data's class numbers, of all images.
        data: its URI, for messages.

    Raises:
        ConfigurationError: the prompts name other classes than the data.
        DataError: a class number has no name, or is far beyond all others.
    """
    highest = int(labels.max())
    if prompts is None:
        if names is None:
            _refuse_beyond_all(highest, len(np.unique(labels)), data)
        own = tuple(names or (str(number) for number in range(highest + 1)))
        _check(highest, len(own), data)
        return Classes(Prompts(own, ("{}",)), np.arange(len(own), dtype=np.int64))
    if names is None:
        _check(highest, len(prompts.classes), data)
        return Classes(prompts, np.arange(len(prompts.classes), dtype=np.int64))
    _check(highest, len(names), data)
    return Classes(prompts, class_numbers(names, prompts, field="prompts", data=data))


def classes_of_shards(context: StageContext, settings: Finetune, shards: ShardSet) -> Classes:
    """The classes of shards, whose indexes rank 0 reads; collective. Raises as above."""

    def found() -> Classes:
        prompts = load_prompts(settings.prompts, context.s3) if settings.prompts else None
        return classes_of(prompts, shards.class_names, shards.class_indices(), data=settings.data)

    return context.world.on_first(found)


def _refuse_beyond_all(highest: int, classes: int, data: str) -> None:
    if is_beyond_all(highest, classes):
        raise DataError(
            f"{data} has the class number {highest}, and of {classes} classes in all: a head would "
            f"get {highest + 1} outputs: correct the number, or name all classes in classes.json "
            "or prompts"
        )


def _check(highest: int, classes: int, data: str) -> None:
    if highest >= classes:
        raise DataError(
            f"{data} has images of class {highest}, but only the classes 0 to {classes - 1} have "
            "names: name them all, in classes.json or prompts"
        )
