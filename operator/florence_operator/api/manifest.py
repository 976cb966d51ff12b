"""Read FlorenceJobs from YAML, and write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from florence.errors import ConfigurationError
from florence_operator.api.v1alpha1 import FlorenceJob, Metadata


def load_job(path: Path) -> FlorenceJob:
    """The FlorenceJob in a YAML or JSON file.

    Raises:
        ConfigurationError: the file cannot be read, or is not one YAML mapping.
        pydantic.ValidationError: a field is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from None
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or "broken"
        raise ConfigurationError(f"{path}: not valid YAML{line}: {problem}") from None
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise ConfigurationError(
            f"{path}: holds {len(documents)} documents; expected one FlorenceJob"
        )
    return FlorenceJob.model_validate(documents[0])


def from_cluster(document: Mapping[str, Any]) -> FlorenceJob:
    """The FlorenceJob that an API server answered, without the metadata only servers care for.

    Raises:
        pydantic.ValidationError: a field is wrong.
    """
    kept = {field.alias for field in Metadata.model_fields.values()}
    metadata = {k: v for k, v in document.get("metadata", {}).items() if k in kept}
    return FlorenceJob.model_validate({**document, "metadata": metadata})


def to_yaml(document: Any) -> str:
    """A document of plain values as YAML, keys in their own order."""
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
