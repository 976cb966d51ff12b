"""Steps on a server in memory, from every state that somebody may have left behind."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence.errors import ConfigurationError
from florencectl.storage.credentials import (
    Credentials,
    administrator,
    credentials_of,
    secret_document,
)
from florencectl.storage.policy import Grant, policy
from florencectl.storage.preparing import Result, Step, prepare_bucket, prepare_user

GRANT = Grant("florence", "runs", "team", ("digits",))
ROOT = "root"


class Server:
    """A server with users, as MinIO's admin API shows them."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, Any]] = {}
        self.policies: dict[str, Mapping[str, Any]] = {}
        self.users: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, str] = {}
        self.knows_rules = True
        self.writes = 0

    def has_users(self) -> bool:
        return True

    def bucket_exists(self, bucket: str) -> bool:
        return bucket in self.buckets

    def make_bucket(self, bucket: str) -> None:
        self.writes += 1
        self.buckets[bucket] = {"versioning": "Off", "days": None}

    def versioning(self, bucket: str) -> str:
        return str(self.buckets[bucket]["versioning"])

    def suspend_versioning(self, bucket: str) -> None:
        self.writes += 1
        self.buckets[bucket]["versioning"] = "Suspended"

    def stale_upload_days(self, bucket: str) -> int | None:
        days: int | None = self.buckets[bucket]["days"]
        return days

    def remove_stale_uploads(self, bucket: str, days: int) -> bool:
        if not self.knows_rules:
            return False
        self.writes += 1
        self.buckets[bucket]["days"] = days
        return True

    def policy(self, name: str) -> dict[str, Any] | None:
        return dict(self.policies[name]) if name in self.policies else None

    def put_policy(self, name: str, document: Mapping[str, Any]) -> None:
        self.writes += 1
        self.policies[name] = document

    def user(self, name: str) -> dict[str, Any] | None:
        return self.users.get(name)

    def put_user(self, credentials: Credentials) -> None:
        self.writes += 1
        self.keys[credentials.access_key] = credentials.secret_key
        self.users.setdefault(credentials.access_key, {"status": "enabled"})["status"] = "enabled"

    def set_policy(self, user: str, name: str) -> None:
        self.writes += 1
        self.users[user]["policyName"] = name

    def accepts(self, credentials: Credentials, bucket: str, prefix: str) -> bool:
        assert (bucket, prefix) == ("florence", "runs/team")
        return self.keys.get(credentials.access_key) == credentials.secret_key


class Secrets(dict[tuple[str, str], dict[str, Any]]):
    """Secrets by namespace and name."""

    def get(self, namespace: str, name: str) -> dict[str, Any] | None:  # type: ignore[override]
        return dict.get(self, (namespace, name))

    def put(self, document: dict[str, Any]) -> None:
        metadata = document["metadata"]
        self[metadata["namespace"], metadata["name"]] = document


def prepared(server: Server, secrets: Secrets, **options: Any) -> list[Step]:
    return prepare_user(server, secrets, GRANT, "minio", ROOT, **options)


def held(user: str, key: str) -> dict[str, Any]:
    return secret_document("team", "minio", Credentials(user, key), "s3://florence/runs/team")


secrets_left = st.sampled_from(
    [None, {"metadata": {}, "data": {}}, held(GRANT.user, "old-key"), held(ROOT, "root-key")]
)
users_left = st.sampled_from(
    [
        None,
        {"status": "enabled"},
        {"status": "enabled", "policyName": GRANT.user},
        {"status": "enabled", "policyName": f"consoleAdmin,{GRANT.user}"},
    ]
)


@given(
    secret=secrets_left,
    user=users_left,
    key=st.sampled_from(["old-key", "another"]),
    document=st.sampled_from([None, {"Statement": []}, policy(GRANT)]),
    rotate=st.booleans(),
)
def test_from_any_state_the_secret_works_and_a_second_run_changes_nothing(
    secret: dict[str, Any] | None,
    user: dict[str, Any] | None,
    key: str,
    document: dict[str, Any] | None,
    rotate: bool,
) -> None:
    server, secrets = Server(), Secrets()
    if secret is not None:
        secrets["team", "minio"] = secret
    if user is not None:
        server.users[GRANT.user], server.keys[GRANT.user] = dict(user), key
    if document is not None:
        server.policies[GRANT.user] = document
    prepared(server, secrets, rotate=rotate)
    credentials = credentials_of(secrets["team", "minio"])
    assert credentials is not None
    assert credentials.access_key == GRANT.user
    assert server.keys[GRANT.user] == credentials.secret_key
    assert server.users[GRANT.user]["policyName"] == GRANT.user
    assert server.policies[GRANT.user] == policy(GRANT)
    if rotate or secret is None or "old-key" not in str(credentials.secret_key):
        assert len(credentials.secret_key) >= 40
    server.writes = 0
    before = dict(secrets)
    assert {step.result for step in prepared(server, secrets)} == {Result.UNCHANGED}
    assert (server.writes, dict(secrets)) == (0, before)


def test_a_secret_that_was_not_made_here_is_left_alone() -> None:
    server, secrets = Server(), Secrets({("team", "minio"): held("somebody", "key")})
    with pytest.raises(ConfigurationError, match=r"credentials of 'somebody'.*--secret"):
        prepared(server, secrets, rotate=True)
    assert server.writes == 0


def test_a_user_that_was_disabled_stays_so() -> None:
    server, secrets = Server(), Secrets()
    prepared(server, secrets)
    server.users[GRANT.user]["status"] = "disabled"
    before = dict(secrets)
    with pytest.raises(ConfigurationError, match="is disabled"):
        prepared(server, secrets, rotate=True)
    assert server.users[GRANT.user]["status"] == "disabled"
    assert dict(secrets) == before


def test_the_bucket_is_made_once_and_older_settings_are_put_right() -> None:
    server = Server()
    assert [step.result for step in prepare_bucket(server, "b")] == [
        Result.MADE,
        Result.UNCHANGED,
        Result.MADE,
    ]
    assert {step.result for step in prepare_bucket(server, "b")} == {Result.UNCHANGED}
    server.buckets["b"]["versioning"] = "Enabled"
    assert prepare_bucket(server, "b")[1].result is Result.CHANGED
    assert server.versioning("b") == "Suspended"
    server.buckets["b"]["days"], server.knows_rules = None, False
    steps = prepare_bucket(server, "b")
    assert {step.result for step in steps} == {Result.UNCHANGED}
    assert "no rule" in steps[2].detail


def test_no_secret_key_shows_in_what_is_printed_of_credentials() -> None:
    assert "hush" not in repr(Credentials("user", "hush", "hush"))
    with pytest.raises(ConfigurationError, match="team/minio"):
        credentials_of(
            {
                "metadata": {"namespace": "team", "name": "minio"},
                "data": {"AWS_ACCESS_KEY_ID": "not base64!"},
            }
        )
    text = base64.b64encode(b"key\n").decode()
    data = {"AWS_ACCESS_KEY_ID": text, "AWS_SECRET_ACCESS_KEY": text}
    assert credentials_of({"data": data}) == Credentials("key", "key")


def test_who_runs_the_server_is_of_the_environment_or_asked_for() -> None:
    own = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "c"}
    assert administrator(own, None) == Credentials("a", "b", "c")
    root = {"MINIO_ROOT_USER": "r", "MINIO_ROOT_PASSWORD": "s"}
    assert administrator({**own, **root}, None) == Credentials("r", "s")
    asked = []

    def ask(what: str, hidden: bool) -> str:
        asked.append((what, hidden))
        return what

    assert administrator({"AWS_ACCESS_KEY_ID": "a"}, ask) == Credentials("Access key", "Secret key")
    assert asked == [("Access key", False), ("Secret key", True)]
    with pytest.raises(ConfigurationError, match="MINIO_ROOT_USER"):
        administrator({}, None)
