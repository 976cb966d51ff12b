"""JSON files of the field's data sets, held in memory while they are imported."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from florence.config.storage import S3Settings
from florence.data.importing.rows import fingerprint, stored_file
from florence.errors import DataError


def read_documents(
    sources: Sequence[str], s3: S3Settings | None
) -> tuple[list[tuple[str, Mapping[str, Any]]], list[Any]]:
    """Each source with what it holds, and what identifies them all.

    Raises:
        DataError: one is missing, or no JSON in UTF-8; names it.
    """
    documents, identity = [], []
    for uri in sources:
        storage, entry = stored_file(uri, s3)
        identity.append(fingerprint([entry]))
        try:
            document = json.loads(storage.read(entry.key))
        except UnicodeDecodeError as error:
            raise DataError(
                f"{uri} is not UTF-8: {error.reason} at byte {error.start}: convert it"
            ) from error
        except ValueError as error:
            raise DataError(f"{uri} is not JSON: {error}: fetch it again") from error
        documents.append((uri, document))
    return documents, identity


def objects(document: Any, name: str, uri: str) -> list[Mapping[str, Any]]:
    """A list of objects in a document. Raises :class:`DataError` where there is none."""
    listed = document.get(name) if isinstance(document, Mapping) else None
    if not isinstance(listed, list) or not all(isinstance(item, Mapping) for item in listed):
        raise DataError(f"{uri} has no list '{name}' of objects: give a file of this format")
    return listed
