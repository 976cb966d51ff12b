"""Read FlorenceJobs from YAML, and write them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from florence.config.yaml_document import MOST_BYTES, DocumentError, read_documents
from florence.errors import ConfigurationError
from florence_operator.api.v1alpha1 import FlorenceJob, Metadata


def load_job(path: Path) -> FlorenceJob:
    """The FlorenceJob in a YAML or JSON file.

    Raises:
        ConfigurationError: the file cannot be read, or is not one YAML mapping.
        pydantic.ValidationError: a field is wrong.
    """
    try:
        with path.open("rb") as file:
            documents = read_documents(file.read(MOST_BYTES + 1))
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except DocumentError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    if not documents:
        raise ConfigurationError(f"{path}: is empty: write a FlorenceJob")
    if len(documents) > 1:
        raise ConfigurationError(
            f"{path}: holds {len(documents)} YAML documents: give each FlorenceJob its own file"
        )
    (document,) = documents
    if not isinstance(document, dict):
        found = "a list" if isinstance(document, list) else f"a {type(document).__name__}"
        raise ConfigurationError(
            f"{path}: holds {found} and no FlorenceJob, a mapping with apiVersion, kind, metadata "
            "and spec"
        )
    return FlorenceJob.model_validate(document)


def from_cluster(document: Mapping[str, Any]) -> FlorenceJob:
    """The FlorenceJob that an API server answered, without the metadata only servers care for.

    Raises:
        pydantic.ValidationError: a field is wrong.
    """
    kept = {field.alias for field in Metadata.model_fields.values()}
    metadata = {k: v for k, v in document.get("metadata", {}).items() if k in kept}
    return FlorenceJob.model_validate({**document, "metadata": metadata})


def from_store(document: Mapping[str, Any]) -> FlorenceJob:
    """The same for an object that was admitted long ago, or by another version.

    Strictness is for admission: fields of the spec that are unknown here are left out, as an API
    server prunes them. A CRD that is newer than this program gives every object its new defaults.

    Raises:
        pydantic.ValidationError: a known field is wrong.
    """
    known = document
    while True:
        try:
            return from_cluster(known)
        except ValidationError as error:
            unknown = [e["loc"] for e in error.errors() if e["type"] == "extra_forbidden"]
            if known is document:
                known = copy.deepcopy(dict(document))
            # Some validators run only when others found nothing: there may be more next time.
            if sum(_removed(known, path) for path in unknown) == 0:
                raise


def _removed(document: Any, path: Sequence[int | str]) -> bool:
    """Take the field at a path out of a document; whether it was there."""
    *above, name = path
    holder = document
    for part in above:
        try:
            holder = holder[part]
        except (KeyError, IndexError, TypeError):
            return False
    return isinstance(holder, dict) and holder.pop(name, holder) is not holder


def to_yaml(document: Any) -> str:
    """A document of plain values as YAML, keys in their own order."""
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
