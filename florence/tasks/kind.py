"""What the rest of the system knows of a kind of stage; imports no torch.

A kind's own folder holds everything else: it is imported in a stage's process only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from florence.config import StageSettings
from florence.planner.cost import Cost
from florence.tasks.inputs import Inputs

TRAIN = "florence.stages.train:train"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelTask:
    """What models of one sort do: classify by texts, say, or by a head.

    Attributes:
        name: as the card of such a model names it.
        help: one line about its predictions.
        inputs: columns and parameters of a prediction.
        predictor: ``module:class`` of a :class:`florence.tasks.task.Predictor`.
        results: ``module:function`` of (image's name, answer) that gives a list of results in the
            form that the task's benchmarks take; ``None`` where an answer is that already.
        picture: ``module:function`` of (Pillow image, answer) that draws the answer into a copy of
            the image; ``None`` where there is nothing to draw.
    """

    name: str
    help: str
    inputs: Inputs
    predictor: str
    results: str | None = None
    picture: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One kind of stage.

    Attributes:
        name: the field of a stage that holds its settings.
        help: one line for the CRD and the command line.
        settings: what a user sets.
        run: ``module:function`` of (context, settings, kind) that runs a stage.
        task: ``module:class`` of a :class:`florence.tasks.task.Task`, for kinds that train.
        cost: parameters, FLOPs and activations for the planner; ``None`` plans nothing.
        makes: the task of the model that a stage of these settings leaves; ``None`` leaves none.
        starts_from: tasks of the models that a stage of these settings may start from.
        needs_model: whether a stage must start from a model.
        models: tasks of models that come with this kind.
    """

    name: str
    help: str
    settings: type[StageSettings]
    run: str = TRAIN
    task: str | None = None
    cost: Cost | None = None
    makes: Callable[[Any], str | None] = lambda settings: None
    starts_from: Callable[[Any], Sequence[str]] = lambda settings: ()
    needs_model: bool = False
    models: tuple[ModelTask, ...] = ()
