"""Makes a bucket fit for a team; what is as it should be is left alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from florence.errors import ConfigurationError
from florencectl.storage.credentials import (
    Credentials,
    credentials_of,
    new_credentials,
    secret_document,
)
from florencectl.storage.policy import STALE_DAYS, Grant, policy, same_policy

Document = dict[str, Any]


class Server(Protocol):
    """What is asked of an S3 server; :class:`florencectl.storage.server.S3Server` is one."""

    def has_users(self) -> bool: ...
    def bucket_exists(self, bucket: str) -> bool: ...
    def make_bucket(self, bucket: str) -> None: ...
    def versioning(self, bucket: str) -> str: ...
    def suspend_versioning(self, bucket: str) -> None: ...
    def stale_upload_days(self, bucket: str) -> int | None: ...
    def remove_stale_uploads(self, bucket: str, days: int) -> bool: ...
    def policy(self, name: str) -> dict[str, Any] | None: ...
    def put_policy(self, name: str, document: Mapping[str, Any]) -> None: ...
    def user(self, name: str) -> dict[str, Any] | None: ...
    def put_user(self, credentials: Credentials) -> None: ...
    def set_policy(self, user: str, name: str) -> None: ...
    def accepts(self, credentials: Credentials, bucket: str, prefix: str) -> bool: ...


class Secrets(Protocol):
    """Where the Secrets of namespaces are kept."""

    def get(self, namespace: str, name: str) -> Document | None: ...
    def put(self, document: Document) -> None: ...


class Result(StrEnum):
    """What became of a thing."""

    MADE = "made"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    LEFT = "left to you"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing, what became of it, and how it is now."""

    what: str
    result: Result
    detail: str = ""


def prepare_bucket(server: Server, bucket: str) -> list[Step]:
    """The bucket, without versions and without uploads that never end."""
    steps = []
    if server.bucket_exists(bucket):
        steps.append(Step(f"bucket {bucket}", Result.UNCHANGED))
    else:
        server.make_bucket(bucket)
        steps.append(Step(f"bucket {bucket}", Result.MADE))
    if server.versioning(bucket) == "Enabled":
        server.suspend_versioning(bucket)
        detail = "suspended; versions of before stay until they are deleted"
        steps.append(Step("versioning", Result.CHANGED, detail))
    else:
        steps.append(Step("versioning", Result.UNCHANGED, server.versioning(bucket).lower()))
    if server.stale_upload_days(bucket) == STALE_DAYS:
        steps.append(Step("stale uploads", Result.UNCHANGED, f"removed after {STALE_DAYS} d"))
    elif server.remove_stale_uploads(bucket, STALE_DAYS):
        steps.append(Step("stale uploads", Result.MADE, f"removed after {STALE_DAYS} d"))
    else:
        detail = "the server has no rule for them; MinIO removes them after a day by itself"
        steps.append(Step("stale uploads", Result.UNCHANGED, detail))
    return steps


def prepare_user(
    server: Server,
    secrets: Secrets,
    grant: Grant,
    secret: str,
    administrator: str,
    *,
    rotate: bool = False,
) -> list[Step]:
    """The policy, the user and the Secret of a namespace; the Secret last, so that it is true.

    Args:
        secret: name of the Secret.
        administrator: the access key of who runs the server. A Secret that holds it is replaced.
        rotate: give the user another secret key.

    Raises:
        ConfigurationError: the Secret holds credentials that were not made here, or the user was
            disabled.
    """
    place = f"s3://{grant.bucket}/{grant.prefix}"
    name = f"Secret {grant.namespace}/{secret}"
    found = secrets.get(grant.namespace, secret)
    held = credentials_of(found) if found else None
    if held and held.access_key not in (grant.user, administrator):
        raise ConfigurationError(
            f"{name} holds credentials of '{held.access_key}', not of '{grant.user}': delete it, "
            "or give this one another name (--secret)"
        )
    known = held if held and held.access_key == grant.user and not rotate else None
    credentials = known or new_credentials(grant.user)
    steps = [_policy(server, grant), _user(server, grant, credentials, known is None)]
    if known:
        return [*steps, Step(name, Result.UNCHANGED)]
    secrets.put(secret_document(grant.namespace, secret, credentials, place))
    detail = ""
    if rotate and held:
        detail = "with a new secret key; pods that run keep the old one, which is no longer taken"
    elif held:
        detail = "it held the credentials of who runs the server"
    return [*steps, Step(name, Result.CHANGED if found else Result.MADE, detail)]


def unmanaged(grants: Sequence[Grant]) -> list[Step]:
    """What is left to do where users cannot be made."""
    return [
        Step(
            f"user of {grant.namespace}", Result.LEFT, f"give it the policy below: {grant.summary}"
        )
        for grant in grants
    ]


def _policy(server: Server, grant: Grant) -> Step:
    wanted, found = policy(grant), server.policy(grant.user)
    what = f"policy {grant.user}"
    if found is not None and same_policy(found, wanted):
        return Step(what, Result.UNCHANGED, grant.summary)
    server.put_policy(grant.user, wanted)
    return Step(what, Result.CHANGED if found is not None else Result.MADE, grant.summary)


def _user(server: Server, grant: Grant, credentials: Credentials, fresh: bool) -> Step:
    what, user = f"user {grant.user}", server.user(grant.user)
    if user is None:
        server.put_user(credentials)
        server.set_policy(grant.user, grant.user)
        return Step(what, Result.MADE)
    if user.get("status") == "disabled":
        raise ConfigurationError(
            f"{what} is disabled by whoever runs the server: enable it first, or leave out its "
            f"namespace '{grant.namespace}'"
        )
    changes = []
    if fresh or not server.accepts(credentials, grant.bucket, grant.prefix):
        server.put_user(credentials)
        changes.append("another secret key")
    if user.get("policyName") != grant.user:
        server.set_policy(grant.user, grant.user)
        changes.append("its policy and no other")
    return Step(what, Result.CHANGED if changes else Result.UNCHANGED, ", ".join(changes))
