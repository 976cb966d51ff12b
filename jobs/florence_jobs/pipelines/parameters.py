"""The parameters of pipelines: what there is, and values as users write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence.config.yaml_document import DocumentError, read_yaml
from florence.errors import ConfigurationError
from florence_jobs.pipelines.definitions import PIPELINES

_KINDS: Mapping[str, type] = {
    "STRING": str,
    "LIST": list,
    "STRUCT": dict,
    "NUMBER_INTEGER": int,
    "NUMBER_DOUBLE": float,
    "BOOLEAN": bool,
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a pipeline."""

    name: str
    kind: type
    required: bool
    default: Any = None


def parameters_of(pipeline: str) -> dict[str, Parameter]:
    """A pipeline's parameters by name.

    Raises:
        ConfigurationError: there is no such pipeline.
    """
    if pipeline not in PIPELINES:
        raise ConfigurationError(f"no pipeline '{pipeline}': use one of {', '.join(PIPELINES)}")
    spec = PIPELINES[pipeline]().pipeline_spec.root.input_definitions.parameters
    return {
        name: Parameter(
            name,
            _kind(each.parameter_type),
            not each.is_optional,
            _default(each),
        )
        for name, each in spec.items()
    }


def arguments_of(pipeline: str, assignments: Sequence[str]) -> dict[str, Any]:
    """The arguments of a pipeline's run.

    Args:
        assignments: ``name=value``; ``name=@FILE`` is the text of a file. Of a list parameter every
            assignment is one element, unless its value is a YAML list.

    Raises:
        ConfigurationError: an assignment cannot be read, or names no parameter.
    """
    known = parameters_of(pipeline)
    found: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or name not in known:
            raise ConfigurationError(
                f"--set {assignment.partition('=')[0]}: write NAME=VALUE with one of "
                f"{', '.join(known)}"
            )
        value = _value(known[name], text)
        if known[name].kind is list:
            value = [*found.get(name, ()), *value]
        found[name] = value
    return found


def check_complete(pipeline: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that lack a required parameter. Raises ``ConfigurationError``."""
    missing = [
        name
        for name, each in parameters_of(pipeline).items()
        if each.required and name not in arguments
    ]
    if missing:
        raise ConfigurationError(
            f"{pipeline} needs {', '.join(missing)}: give each with --set NAME=VALUE or NAME=@FILE"
        )


def _value(parameter: Parameter, text: str) -> Any:
    is_file = text.startswith("@")
    if is_file:
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"--set {parameter.name}=@…: {text[1:]} cannot be read: {error}"
            ) from None
    if parameter.kind is str:
        return text
    if parameter.kind is list and is_file:
        return [text]
    try:
        value = read_yaml(text)
    except DocumentError as error:
        raise ConfigurationError(f"--set {parameter.name}=…: the value {error}") from None
    if parameter.kind is list and not isinstance(value, list):
        return [text]
    if not isinstance(value, parameter.kind):
        raise ConfigurationError(f"--set {parameter.name}={text}: is no {parameter.kind.__name__}")
    return value


def _kind(number: int) -> type:
    from kfp.pipeline_spec.pipeline_spec_pb2 import ParameterType

    return _KINDS[ParameterType.ParameterTypeEnum.Name(number)]


def _default(each: Any) -> Any:
    from google.protobuf import json_format

    return json_format.MessageToDict(each.default_value) if each.is_optional else None
