"""From the name of a model in MLflow's registry to where its files are.

:mod:`florence` knows no MLflow: its loader finds :func:`located` by the entry point
``florence.models`` of this distribution.
"""

from __future__ import annotations

from florence.config.storage import S3Settings
from florence.errors import DataError, FlorenceError
from florence_jobs.registry.references import is_reference, parse_reference
from florence_jobs.registry.store import ModelRegistry, Version, default_store
from florence_jobs.registry.tags import URI, WEIGHTS_DIGEST


def located(uri: str, s3: S3Settings | None = None, *, store: str | None = None) -> str:
    """Where the files of a model are; any other URI as it stands.

    What the stage left is taken as long as it is the model that was registered, which its commit
    says without a look at the weights; a stage that ran again has overwritten it. MLflow's own copy
    is fetched then.

    Args:
        uri: ``models:/…``, or the URI of a model.
        s3: where ``s3://`` is.
        store: of MLflow; default: ``MLFLOW_TRACKING_URI``, or the store of this machine.

    Raises:
        DataError: there is no such model, or it is gone.
        ConfigurationError: it is no reference, or there is no store.
    """
    if not is_reference(uri):
        return uri
    reference = parse_reference(uri)
    registry = ModelRegistry(store or default_store())
    return place_of_files(registry, registry.find(reference), s3)


def pinned(uri: str, *, store: str | None = None) -> str:
    """The same model under a name that means it for ever: an alias may move meanwhile.

    Raises as :func:`located`; any other URI is returned as it stands.
    """
    if not is_reference(uri):
        return uri
    return ModelRegistry(store or default_store()).find(parse_reference(uri)).uri


def place_of_files(registry: ModelRegistry, version: Version, s3: S3Settings | None = None) -> str:
    """The URI of a version's files. Raises :class:`DataError` where they are gone."""
    left = version.tags.get(URI)
    if left is not None and _is_still(left, version.tags.get(WEIGHTS_DIGEST), s3):
        return left
    try:
        return str(registry.fetch(version))
    except DataError as error:
        if left is None:
            raise
        raise DataError(f"{error}; nor is it still what the stage left at {left}") from None


def _is_still(uri: str, digest: str | None, s3: S3Settings | None) -> bool:
    """Whether a place still holds the weights of that digest."""
    from florence.checkpoint import committed_model
    from florence.models.stored import WEIGHTS
    from florence.storage import open_storage

    if digest is None:
        return False
    try:
        final = committed_model(open_storage(uri, s3))
    except FlorenceError:
        return False
    file = final.commit.files.get(WEIGHTS) if final is not None else None
    return file is not None and file.sha256 == digest
