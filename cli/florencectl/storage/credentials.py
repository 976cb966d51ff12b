"""Access keys: those of whoever runs the server, and those that a namespace's Secret holds."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from florence.errors import ConfigurationError

Document = dict[str, Any]

ACCESS_KEY, SECRET_KEY, TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
_MANAGED_BY = "app.kubernetes.io/managed-by"
PLACE = "florence.dev/storage"
"""Annotation of a Secret: the URI that its credentials are for."""

_SECRET_BYTES = 30
"""240 random bits; forty characters, as Amazon's."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key and its secret, which is never shown."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def new_credentials(user: str) -> Credentials:
    """Credentials of a user, with a secret key that nobody knows yet."""
    return Credentials(user, secrets.token_urlsafe(_SECRET_BYTES))


def administrator(
    environment: Mapping[str, str], ask: Callable[[str, bool], str] | None
) -> Credentials:
    """Who makes buckets and users: of the environment, or asked for.

    Args:
        environment: MINIO_ROOT_USER and MINIO_ROOT_PASSWORD, or else AWS_ACCESS_KEY_ID,
            AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN.
        ask: takes what to ask for and whether it is to be hidden; None where nobody can be asked.

    Raises:
        ConfigurationError: there are none.
    """
    for user, key, token in (
        ("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", ""),
        (ACCESS_KEY, SECRET_KEY, TOKEN),
    ):
        if environment.get(user) and environment.get(key):
            return Credentials(environment[user], environment[key], environment.get(token) or None)
    if ask is None:
        raise ConfigurationError(
            "no credentials of who may make buckets: set MINIO_ROOT_USER and MINIO_ROOT_PASSWORD, "
            f"or {ACCESS_KEY} and {SECRET_KEY}"
        )
    return Credentials(ask("Access key", False), ask("Secret key", True))


def secret_document(namespace: str, name: str, credentials: Credentials, place: str) -> Document:
    """The Secret that ``artifacts.credentialsSecret`` names."""
    data = {ACCESS_KEY: credentials.access_key, SECRET_KEY: credentials.secret_key}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {_MANAGED_BY: "florencectl"},
            "annotations": {PLACE: place},
        },
        "type": "Opaque",
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
    }


def credentials_of(secret: Mapping[str, Any]) -> Credentials | None:
    """What a Secret holds; None when it lacks a key or a secret.

    Raises:
        ConfigurationError: it cannot be read as text.
    """
    data = secret.get("data") or {}
    try:
        values = {
            key: base64.b64decode(data.get(key) or "", validate=True).decode().strip()
            for key in (ACCESS_KEY, SECRET_KEY, TOKEN)
        }
    except (binascii.Error, UnicodeDecodeError):
        metadata = secret.get("metadata") or {}
        raise ConfigurationError(
            f"Secret {metadata.get('namespace')}/{metadata.get('name')}: its data are no text in "
            "base64: delete it and prepare the storage again"
        ) from None
    if not values[ACCESS_KEY] or not values[SECRET_KEY]:
        return None
    return Credentials(values[ACCESS_KEY], values[SECRET_KEY], values[TOKEN] or None)
