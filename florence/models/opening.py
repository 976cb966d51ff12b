"""Models by URI: a folder with a model's files, or a stage's artifacts, here or in S3."""

from __future__ import annotations

from collections.abc import Callable

from florence.checkpoint import final_model_at
from florence.config.storage import S3Settings
from florence.models.stored import CARD, ModelCard, StoredModel, parse_card, read_stored


def open_stored(uri: str, s3: S3Settings | None = None) -> StoredModel:
    """The model at a URI, its weights in memory.

    Raises:
        DataError: there is no model, or it is broken.
        ConfigurationError: the URI or the credentials are wrong.
        TryAgainError: the network gave up.
    """
    source, read = _reader(uri, s3)
    return read_stored(read, source)


def read_card(uri: str, s3: S3Settings | None = None) -> ModelCard:
    """The card of the model at a URI; its weights are not read. Raises as above."""
    source, read = _reader(uri, s3)
    return parse_card(read(CARD), f"{source}/{CARD}")


def _reader(uri: str, s3: S3Settings | None) -> tuple[str, Callable[[str], bytes]]:
    final = final_model_at(uri, s3)
    return final.uri, final.read
