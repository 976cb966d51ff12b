"""The settings of an evaluation stage; its lists are the registry's."""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Any, Self

from pydantic import SerializerFunctionWrapHandler, create_model, model_serializer, model_validator
from pydantic.alias_generators import to_camel

from florence.config.base import setting
from florence.config.evaluations import EvaluationSettings
from florence.config.precision import Precision
from florence.config.stage import StageSettings
from florence.evaluation.registry import EVALUATIONS, Evaluation

if TYPE_CHECKING:
    _Lists = StageSettings
else:
    # A base of its own, so that the lists stand before what all evaluations share.
    _Lists = create_model(
        "_Lists",
        __base__=StageSettings,
        __module__=__name__,
        **{
            kind.field: (
                tuple[pkgutil.resolve_name(kind.settings), ...],
                setting((), description=kind.help),
            )
            for kind in EVALUATIONS
        },
    )


class Evaluate(_Lists):
    """One evaluation stage."""

    batch_size: int = setting(
        256, description="images embedded at once, per rank", unit="samples", ge=1
    )
    resolution: int | None = setting(
        None,
        description="side of the square images. Default: that of the stage before",
        unit="pixels",
        ge=8,
    )
    precision: Precision = setting(Precision.FP32, description="number format of matrix products")
    workers: int = setting(2, description="processes that decode images, per rank", ge=0)

    def chosen(self) -> list[tuple[Evaluation, EvaluationSettings]]:
        """Every evaluation to run, in the registry's order, then that of the settings."""
        return [(kind, one) for kind in EVALUATIONS for one in getattr(self, kind.field)]

    @property
    def model_tasks(self) -> tuple[str, ...]:
        """Tasks of the models that all of the evaluations can measure."""
        kinds = [kind for kind, _ in self.chosen()]
        return tuple(task for task in kinds[0].tasks if all(task in kind.tasks for kind in kinds))

    @model_serializer(mode="wrap")
    def _write_without_empty_lists(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """An image older than an evaluation reads plans that do not ask for it."""
        empty = [kind.field for kind in EVALUATIONS if not getattr(self, kind.field)]
        unwritten = {name for field in empty for name in (field, to_camel(field))}
        return {name: value for name, value in write(self).items() if name not in unwritten}

    @model_validator(mode="after")
    def _has_something_to_do(self) -> Self:
        fields = [to_camel(kind.field) for kind in EVALUATIONS]
        listed = f"{', '.join(fields[:-1])} and {fields[-1]}"
        names = [one.name for _, one in self.chosen()]
        if not names:
            raise ValueError(f"give at least one of {listed}")
        if len(set(names)) < len(names):
            raise ValueError(f"names of {listed} must differ")
        return self

    if TYPE_CHECKING:  # what mypy cannot see of the lists

        def __init__(self, **fields: Any) -> None: ...

        def __getattr__(self, name: str) -> tuple[Any, ...]: ...
