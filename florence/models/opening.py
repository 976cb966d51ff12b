"""Models by URI: a folder with a model's files, or a stage's artifacts, here or in S3."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from florence.checkpoint import FinalModel, committed_model, is_folder_of_files
from florence.config.storage import S3Settings
from florence.errors import ConfigurationError, DataError
from florence.models.card import ModelCard, parse_card
from florence.models.stored import CARD, StoredModel, read_stored
from florence.storage import open_storage

RESOLVERS = "florence.models"
"""Entry points that find models by names of their own: ``(uri, s3) -> uri``, by scheme."""


def open_stored(uri: str, s3: S3Settings | None = None) -> StoredModel:
    """The model at a URI, its weights in memory.

    Raises:
        DataError: there is no model, or it is broken.
        ConfigurationError: the URI or the credentials are wrong.
        TransientError: the network gave up.
    """
    source, read = _reader(uri, s3)
    return read_stored(read, source)


def read_card(uri: str, s3: S3Settings | None = None) -> ModelCard:
    """The card of the model at a URI; its weights are not read. Raises as above."""
    source, read = _reader(uri, s3)
    card, _ = parse_card(read(CARD), f"{source}/{CARD}")
    return card


def _reader(uri: str, s3: S3Settings | None) -> tuple[str, Callable[[str], bytes]]:
    uri = _located(uri, s3)
    storage = open_storage(uri.rstrip("/") or uri, s3)
    final = committed_model(storage) or _committed_above(storage.uri, s3)
    if final is not None:
        return final.uri, final.read
    if storage.size(CARD) is None:
        raise DataError(
            f"{storage.uri}: no model: there is no {CARD} in it and no commit of one; "
            "give a model's folder or the artifacts of a finished stage"
        )
    return storage.uri, storage.read


def _located(uri: str, s3: S3Settings | None) -> str:
    """Where the files are of a model with a name such as ``models:/NAME@champion``.

    Raises:
        ConfigurationError: nothing that is installed knows such names.
    """
    scheme, separator, rest = uri.partition(":/")
    if not separator or rest.startswith("/") or not scheme.isidentifier():
        return uri
    for found in entry_points(group=RESOLVERS, name=scheme):
        resolve: Callable[[str, S3Settings | None], str] = found.load()
        return resolve(uri, s3)
    raise ConfigurationError(
        f"{uri}: nothing that is installed knows models by '{scheme}:/': give a folder or an "
        "s3:// URI, or install florence again"
    )


def _committed_above(uri: str, s3: S3Settings | None) -> FinalModel | None:
    """The model whose files are right at ``uri``: its commit, with their digests, is one above."""
    above, _, folder = uri.rpartition("/")
    if not is_folder_of_files(folder):
        return None
    final = committed_model(open_storage(above, s3))
    return final if final is not None and final.commit.folder == folder else None
