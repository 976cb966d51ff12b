"""The storage of a cluster's job as it is reached from here."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from florence.errors import ConfigurationError
from florencectl.output import note

if TYPE_CHECKING:
    from florence.storage import Storage
    from florence_operator.kube.client import Client

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_OWN = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE")


def artifacts_uri(job: Mapping[str, Any]) -> str:
    """The folder of everything that a job keeps.

    Raises:
        ConfigurationError: it is not one that can be reached from here.
    """
    from florence_operator.api import artifacts
    from florence_operator.api.manifest import from_store

    uri = ((job.get("spec") or {}).get("artifacts") or {}).get("uri") or ""
    if not uri.startswith("s3://"):
        raise ConfigurationError(
            f"spec.artifacts.uri is '{uri}': only s3:// storage can be reached from here"
        )
    return artifacts.artifacts_uri(from_store({**job, "status": None}))


async def prepare_credentials(
    client: Client, job: Mapping[str, Any], environment: MutableMapping[str, str] = os.environ
) -> None:
    """Take the user's own credentials, or else those of the job's Secret where they may be read."""
    from florence_operator.kube.client import SECRETS, ApiError

    metadata = job["metadata"]
    secret = ((job.get("spec") or {}).get("artifacts") or {}).get("credentialsSecret")
    if not secret:
        return
    if any(environment.get(key) for key in _OWN):
        note(f"using the AWS_* variables of this shell, not the job's Secret '{secret}'")
        return
    try:
        document = await client.get(SECRETS, secret, metadata["namespace"])
    except ApiError as error:
        if not (error.forbidden or error.not_found):
            raise
        problem = "may not be read by you" if error.forbidden else "does not exist"
        note(f"Secret '{secret}' {problem}: using the AWS credentials of this machine, if any")
        return
    for key in _KEYS:
        value = (document.get("data") or {}).get(key)
        if value:
            environment[key] = base64.b64decode(value).decode().strip()


def open_job_storage(job: Mapping[str, Any], uri: str, endpoint: str | None) -> Storage:
    """The storage below ``uri``; ``endpoint`` replaces the job's own, which may be the cluster's.

    Raises:
        ConfigurationError: a setting is wrong.
    """
    from florence.config.storage import S3Settings
    from florence.storage import open_storage

    artifacts = (job.get("spec") or {}).get("artifacts") or {}
    settings = S3Settings(
        endpoint=endpoint or artifacts.get("endpoint"), region=artifacts.get("region"), attempts=3
    )
    return open_storage(uri, settings)


def explained(error: str, job: Mapping[str, Any], endpoint: str | None) -> str:
    """An error of the storage, with what to try where it may not be reachable from here."""
    own = ((job.get("spec") or {}).get("artifacts") or {}).get("endpoint")
    if endpoint or not own:
        return error
    return (
        f"{error}; the job's endpoint {own} may be reachable inside the cluster only: make it so "
        "here (kubectl port-forward) and give --endpoint or FLORENCE_S3_ENDPOINT"
    )
