"""The URIs of models as commands take them: also the names of MLflow's registry."""

from __future__ import annotations

from florence.config.storage import S3Settings


def resolved(uri: str, s3: S3Settings) -> str:
    """Where the files of a model are; a name such as ``models:/NAME@champion`` is looked up.

    Raises:
        DataError: there is no such model.
        ConfigurationError: it is no name of one, or there is no store of MLflow's.
    """
    from florence_jobs.registry.references import is_reference

    if not is_reference(uri):
        return uri
    from florence_jobs.registry.resolving import located

    return located(uri, s3)
