"""What a user gives a model on the command line, as the values that its inputs take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from florence.config.storage import S3Settings
from florence.errors import ConfigurationError
from florence.tasks.inputs import Column, Parameter, texts_in
from florence.tasks.kind import ModelTask

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def flag_of(name: str) -> str:
    """The flag of an input."""
    return f"--{name.replace('_', '-')}"


def parsed(given: Column | Parameter, text: str | list[str], s3: S3Settings) -> Any:
    """The value of an input from the command line.

    Raises:
        ConfigurationError: it is not of the input's type; names the flag.
    """
    flag = flag_of(given.name)
    if isinstance(text, list):
        return text
    if given.type == "templates":
        return parse_templates(text, flag, s3)
    if given.type == "texts":
        return parse_labels(text, flag)
    if given.type == "seconds":
        return parse_seconds(text, flag)
    if given.type in ("number", "integer"):
        try:
            return int(text) if given.type == "integer" else float(text)
        except ValueError:
            raise ConfigurationError(f"{flag}: '{text}' is not a number") from None
    return text


def parse_seconds(text: str, flag: str) -> float:
    """A length of time: 2, 2s, 500ms or 1m. Raises :class:`ConfigurationError`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)?", text.strip())
    if found is None:
        raise ConfigurationError(f"{flag}: '{text}' is no length of time: write 2s or 500ms")
    return float(found[1]) * _SECONDS[found[2] or "s"]


def parse_labels(labels: str, flag: str = "--labels") -> list[str]:
    """The words between commas; see :func:`florence.tasks.inputs.texts_in`.

    Raises:
        ConfigurationError: there is none, or one comes twice.
    """
    names = texts_in(labels)
    if not names:
        raise ConfigurationError(f"{flag} names no word: write {flag} 'cat,dog'")
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"{flag} names '{name}' twice")
    return names


def parse_templates(name: str, flag: str, s3: S3Settings) -> tuple[str, ...]:
    """The templates of a built-in list or a text file, or those of an evaluation's prompts."""
    from florence.config.evaluations import PROMPT_SETS
    from florence.text.templates import BUILTIN, load_templates

    if name not in BUILTIN and (name in PROMPT_SETS or name.endswith((".yaml", ".yml"))):
        from florence.evaluation.prompts import load_prompts

        return load_prompts(name, s3).templates
    return load_templates(name, flag, s3=s3)


def check_inputs(task: ModelTask, given: Mapping[str, Any]) -> None:
    """Refuse inputs that models of a task do not take, and the lack of those that they need.

    Raises:
        ConfigurationError: names the flag, and the flags that such models take.
    """
    known = {each.name: each for each in task.inputs.given}
    for name in given:
        if name not in known:
            takes = ", ".join(flag_of(other) for other in known) or "no options of its own"
            raise ConfigurationError(
                f"{flag_of(name)} is not for {task.name} models, which take {takes}"
            )
    for name, each in known.items():
        if each.required and name not in given:
            raise ConfigurationError(
                f"{flag_of(name)} is needed by {task.name} models: {each.help}"
            )
