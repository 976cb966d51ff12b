"""A final model as MLflow serves it, whatever its task.

MLflow calls :func:`_load_pyfunc` of this module, which comes from the installed package: the
model's folder holds ``model.safetensors`` and ``config.json``, no code and no pickle.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import florence
from florence.kinds import model_task_named
from florence.loading import load
from florence.models.card import parse_card
from florence.models.stored import CARD
from florence.tasks.inputs import FILES, LISTS, Column, Inputs, Parameter, Type, texts_in
from florence.tasks.task import Predictor
from florence.text.templates import BUILTIN

if TYPE_CHECKING:
    import pandas as pd


class ServedModel:
    """A predictor behind MLflow's interface: images arrive as base64 text.

    An image is never a path or a URL: a server must not read its own files for whoever asks.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def predict(
        self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Answer for every row of a table, as the predictor of the model's task does.

        Args:
            model_input: the task's columns; images are base64 of a JPEG, PNG or WebP, also as a
                data URI.
            params: the task's parameters.

        Raises:
            MlflowException: an image or a parameter is unusable; the message names the row.
        """
        images = {c.name for c in self._predictor.inputs.columns if c.type in FILES}
        try:
            rows = [
                {
                    name: _content(value, name, number) if name in images else value
                    for name, value in row.items()
                }
                for number, row in enumerate(model_input.to_dict("records"))
            ]
            return self._predictor.predict(rows, params or {})
        except ValueError as error:
            raise _refused(str(error)) from None


def served(predictor: Predictor) -> Any:
    """A predictor as the ``PyFuncModel`` that MLflow's scoring server takes, without any files.

    Unlike one that MLflow loads it also takes texts as one line with commas between them, and
    templates by the name of a built-in list.
    """
    from mlflow.models import Model
    from mlflow.pyfunc import FLAVOR_NAME, PyFuncModel

    inputs = predictor.inputs
    parameters = {each.name: each.type for each in inputs.parameters if each.type in LISTS}
    columns = {each.name: each.type for each in inputs.columns if each.type in LISTS}

    class Lenient(PyFuncModel):  # type: ignore[misc]  # MLflow has no types
        def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> Any:
            for name in columns.keys() & set(getattr(data, "columns", ())):
                data[name] = [_listed(value, columns[name]) for value in data[name]]
            given = {
                name: _listed(value, parameters[name]) if name in parameters else value
                for name, value in (params or {}).items()
            }
            return super().predict(data, params=given)

    description = Model(
        signature=signature(inputs, lenient=True),
        flavors={FLAVOR_NAME: {"loader_module": __name__}},
    )
    return Lenient(description, ServedModel(predictor))


def example_request(inputs: Inputs, url: str) -> str:
    """A shell command that asks a server about a picture; any POSIX shell runs it."""
    row = {
        column.name: "%s" if column.type in FILES else _EXAMPLES[column.type]
        for column in inputs.columns
        if column.required
    }
    params = {p.name: _EXAMPLES[p.type] for p in inputs.parameters if p.required}
    body = json.dumps({"dataframe_records": [row], **({"params": params} if params else {})})
    # Through a pipe: as an argument a large picture would be too long.
    photo = "clip.mp4" if inputs.medium == "video" else "photo.jpg"
    return (
        f"printf {shlex.quote(body)} \"$(base64 < {photo} | tr -d '\\n')\" | "
        f"curl -s {url}/invocations -H 'Content-Type: application/json' -d @-"
    )


def _listed(value: Any, kind: str) -> Any:
    if not isinstance(value, str):
        return value
    return list(BUILTIN.get(value, [value])) if kind == "templates" else texts_in(value)


def _load_pyfunc(path: str) -> ServedModel:
    """MLflow's entry point: the model of a folder written by :func:`write_served_model`."""
    return ServedModel(load(path).predictor)


def write_served_model(path: Path, weights: Path, description: Any) -> None:
    """Write the folder that MLflow serves.

    Args:
        path: the folder to make.
        weights: a folder with ``model.safetensors`` and ``config.json``, which are copied.
        description: an ``mlflow.models.Model``, whose ids the folder carries.
    """
    import mlflow.pyfunc

    card, _ = parse_card((weights / CARD).read_bytes(), str(weights / CARD))
    inputs = model_task_named(card.task).inputs
    mlflow.pyfunc.save_model(
        path=str(path),
        loader_module=__name__,
        data_path=str(weights),
        mlflow_model=description,
        signature=signature(inputs),
        input_example=input_example(inputs),
        pip_requirements=[f"florence[train]=={florence.__version__}"],
    )


def signature(inputs: Inputs, *, lenient: bool = False) -> Any:
    """MLflow's description of what a task's predictor takes.

    Args:
        lenient: whether columns with lists may hold anything.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType, Array

    types = {"number": DataType.double, "integer": DataType.long, "seconds": DataType.double}

    def column(column: Column) -> Any:
        kind = types.get(column.type, DataType.string)
        spec = kind
        if column.type in LISTS:
            spec = AnyType() if lenient else Array(kind)
        return ColSpec(spec, column.name, required=column.required)

    def parameter(parameter: Parameter) -> Any:
        kind = types.get(parameter.type, DataType.string)
        shape = (-1,) if parameter.type in LISTS else None
        return ParamSpec(parameter.name, kind, default=_default(parameter), shape=shape)

    return ModelSignature(
        inputs=Schema([column(each) for each in inputs.columns]),
        params=ParamSchema([parameter(each) for each in inputs.parameters]),
    )


_EXAMPLES: dict[Type, Any] = {
    "text": "a question",
    "texts": ["cat", "dog", "grey"],
    "templates": ["a photo of a {}."],
    "number": 0.5,
    "integer": 1,
    "seconds": 2.0,
}


def input_example(inputs: Inputs) -> tuple[Any, dict[str, Any]]:
    """One grey image or video, and something for everything else that is needed."""
    import pandas as pd

    row = {
        column.name: base64.b64encode(_grey(column.type)).decode()
        if column.type in FILES
        else _EXAMPLES[column.type]
        for column in inputs.columns
        if column.required
    }
    parameters = {
        parameter.name: _EXAMPLES[parameter.type] if parameter.required else _default(parameter)
        for parameter in inputs.parameters
    }
    return pd.DataFrame({name: [value] for name, value in row.items()}), parameters


def _grey(media: Type) -> bytes:
    """The smallest file of its type that is worth the name."""
    if media == "video":
        import numpy as np

        from florence.data.video.writing import write_clip

        return write_clip([np.full((32, 32, 3), 128, np.uint8)] * 2, rate=2)
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (128, 128, 128)).save(buffer, format="PNG")
    return buffer.getvalue()


def _default(parameter: Parameter) -> Any:
    """What a parameter is when a request leaves it out; MLflow wants lists as lists."""
    if parameter.type in LISTS:
        return list(parameter.default) if isinstance(parameter.default, tuple) else []
    return parameter.default


def _content(value: Any, name: str, row: int) -> bytes:
    if not isinstance(value, str):
        kinds = "video" if name == "video" else "JPEG, PNG or WebP"
        raise ValueError(f"row {row}: {name} must be base64 text of a {kinds} file")
    if value.startswith("data:"):
        value = value.partition(",")[2]
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"row {row}: {name} is not base64") from None


def _refused(message: str) -> Exception:
    """An error that MLflow's server answers with status 400."""
    from mlflow.exceptions import MlflowException

    error: Exception = MlflowException.invalid_parameter_value(message)
    return error
