"""Class names and prompt templates: built in, or from a user's YAML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from florence.config.storage import S3Settings
from florence.data.digits import WORDS
from florence.errors import ConfigurationError
from florence.storage import open_storage
from florence.text.templates import DIGITS, GAP


@dataclass(frozen=True)
class Prompts:
    """What a zero-shot classifier is made of."""

    classes: tuple[str, ...]
    """Names in the order of the labels."""
    templates: tuple[str, ...]
    """Sentences with ``{}`` where the name goes."""


def load_prompts(source: str, s3: S3Settings | None = None) -> Prompts:
    """The built-in prompts of that name, or those of a YAML file.

    Args:
        source: ``digits``, or the path or ``s3://`` URI of a file with the lists ``classes`` and
            ``templates``. Without ``templates`` the names stand for themselves.
        s3: where ``s3://`` is.

    Raises:
        ConfigurationError: the file is missing, no YAML, or not of that form.
    """
    if source == "digits":
        return Prompts(WORDS, DIGITS)
    try:
        document = yaml.safe_load(_read(source, s3))
    except OSError as error:
        raise ConfigurationError(
            f"prompts: cannot read '{source}': {error.strerror or error}; "
            "give 'digits' or the path of a YAML file"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        raise ConfigurationError(f"prompts: '{source}' is not YAML: {line}") from error
    return parse_prompts(document, source)


def _read(source: str, s3: S3Settings | None) -> str:
    if not source.startswith("s3://"):
        return Path(source).read_text("utf-8")
    folder, _, name = source.rpartition("/")
    return open_storage(folder, s3).read(name).decode()


def parse_prompts(document: Any, source: str) -> Prompts:
    """Check a document with the lists ``classes`` and ``templates``; ``source`` is for messages."""
    if not isinstance(document, dict):
        raise ConfigurationError(
            f"prompts: '{source}' must hold two lists, 'classes' and 'templates'"
        )
    unknown = sorted(set(map(str, document)) - {"classes", "templates"})
    if unknown:
        raise ConfigurationError(
            f"prompts: '{source}' has the unknown field '{unknown[0]}': "
            "only 'classes' and 'templates' are read"
        )
    classes = _texts(document.get("classes"), "classes", source)
    templates = _texts(document.get("templates", [GAP]), "templates", source)
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise ConfigurationError(f"prompts: '{source}' lists the class '{twice}' twice")
    for index, template in enumerate(templates):
        if GAP not in template:
            raise ConfigurationError(
                f"prompts: '{source}' templates[{index}] '{template}' has no {GAP} for the name"
            )
    return Prompts(classes, templates)


def _texts(value: Any, field: str, source: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ConfigurationError(f"prompts: '{source}' {field} must be a list that is not empty")
    for index, item in enumerate(value):
        # YAML reads a bare no, 1 or 2001-01-01 as something else than text; guessing the spelling
        # back would be wrong for some class one day.
        if not isinstance(item, str) or not item.strip():
            raise ConfigurationError(
                f"prompts: '{source}' {field}[{index}] is {item!r}, not a text: put it in quotes"
            )
    return tuple(value)
