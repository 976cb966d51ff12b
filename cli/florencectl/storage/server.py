"""A bucket and its users on an S3 server, through MinIO's SDK; users on MinIO only."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import urllib3
from minio import Minio, MinioAdmin
from minio.commonconfig import ENABLED, Filter
from minio.credentials.providers import StaticProvider
from minio.error import InvalidResponseError, MinioAdminException, S3Error, ServerError
from minio.lifecycleconfig import AbortIncompleteMultipartUpload, LifecycleConfig, Rule
from minio.versioningconfig import SUSPENDED, VersioningConfig

from florence.errors import ConfigurationError, FlorenceError, TransientError
from florencectl.storage.credentials import Credentials

T = TypeVar("T")

AMAZON = "https://s3.amazonaws.com"
RULE = "florence-stale-uploads"

_HTTP_TIMEOUT = urllib3.Timeout(connect=10, read=60)
_NO_RULE = {"InvalidArgument", "InvalidRequest", "MalformedXML", "NotImplemented"}
_WRONG_KEY = {"InvalidAccessKeyId", "SignatureDoesNotMatch"}


class S3Server:
    """An S3 server as whoever may make buckets and users there sees it.

    Raises from every method:
        ConfigurationError: it refused; the message is one line without a secret.
        TransientError: it did not answer.
    """

    def __init__(self, endpoint: str | None, credentials: Credentials, region: str | None) -> None:
        self.endpoint = endpoint or AMAZON
        parts = urlsplit(self.endpoint)
        secure, address = parts.scheme == "https", parts.netloc
        self._http = urllib3.PoolManager(timeout=_HTTP_TIMEOUT, retries=urllib3.Retry(3))
        self._address, self._secure = address, secure
        self._region = region or "us-east-1"
        self._s3 = self._client(credentials)
        self._admin = MinioAdmin(
            endpoint=address, credentials=_provider(credentials), secure=secure
        )

    def has_users(self) -> bool:
        """Whether it is a MinIO, whose users can be made here."""
        answer = self._answer(
            lambda: self._http.request("GET", f"{self.endpoint.rstrip('/')}/minio/health/live")
        )
        return answer.status == 200

    def bucket_exists(self, bucket: str) -> bool:
        """Whether the bucket is there."""
        return self._answer(lambda: self._s3.bucket_exists(bucket))

    def make_bucket(self, bucket: str) -> None:
        """Make the bucket."""
        self._answer(lambda: self._s3.make_bucket(bucket, location=self._region))

    def versioning(self, bucket: str) -> str:
        """``Off``, ``Enabled`` or ``Suspended``."""
        return self._answer(lambda: self._s3.get_bucket_versioning(bucket)).status or "Off"

    def suspend_versioning(self, bucket: str) -> None:
        """Keep no older versions of what is written from now on."""
        self._answer(lambda: self._s3.set_bucket_versioning(bucket, VersioningConfig(SUSPENDED)))

    def stale_upload_days(self, bucket: str) -> int | None:
        """After how many days our rule removes uploads that never ended; None without it."""
        for rule in self._rules(bucket):
            abort = rule.abort_incomplete_multipart_upload
            if rule.rule_id == RULE and rule.status == ENABLED and abort:
                return abort.days_after_initiation
        return None

    def remove_stale_uploads(self, bucket: str, days: int) -> bool:
        """Have uploads removed that began so long ago, beside the bucket's other rules.

        False where the server knows no such rule.
        """
        own = Rule(
            ENABLED,
            rule_id=RULE,
            rule_filter=Filter(prefix=""),
            abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(days),
        )
        rules = [rule for rule in self._rules(bucket) if rule.rule_id != RULE]
        try:
            self._s3.set_bucket_lifecycle(bucket, LifecycleConfig([*rules, own]))
        except S3Error as error:
            if error.code in _NO_RULE:
                return False
            raise _explained(error, self.endpoint) from error
        except (OSError, urllib3.exceptions.HTTPError) as error:
            raise _unanswered(error, self.endpoint) from error
        return True

    def policy(self, name: str) -> dict[str, Any] | None:
        """A policy's document; None when there is none."""
        return self._or_none(lambda: json.loads(self._admin.policy_info(name)))

    def put_policy(self, name: str, document: Mapping[str, Any]) -> None:
        """Make a policy, or replace it."""
        self._answer(lambda: self._admin.policy_add(name, policy=dict(document)))

    def user(self, name: str) -> dict[str, Any] | None:
        """What is known of a user: ``status``, ``policyName``; None when there is none."""
        return self._or_none(lambda: json.loads(self._admin.user_info(name)))

    def put_user(self, credentials: Credentials) -> None:
        """Make a user, or give it another secret key."""
        self._answer(lambda: self._admin.user_add(credentials.access_key, credentials.secret_key))

    def set_policy(self, user: str, name: str) -> None:
        """Let a user do what a policy says, and nothing that another says."""
        self._answer(lambda: self._admin.policy_set(name, user=user))

    def accepts(self, credentials: Credentials, bucket: str, prefix: str) -> bool:
        """Whether the server knows the credentials, whatever they may do."""
        client = self._client(credentials)
        try:
            next(iter(client.list_objects(bucket, prefix=f"{prefix}/")), None)
        except S3Error as error:
            if error.code in _WRONG_KEY:
                return False
            if error.code != "AccessDenied":
                raise _explained(error, self.endpoint) from error
        return True

    def _rules(self, bucket: str) -> list[Rule]:
        found = self._answer(lambda: self._s3.get_bucket_lifecycle(bucket))
        return list(found.rules) if found else []

    def _client(self, credentials: Credentials) -> Minio:
        return Minio(
            self._address,
            access_key=credentials.access_key,
            secret_key=credentials.secret_key,
            session_token=credentials.session_token,
            secure=self._secure,
            region=self._region,
            http_client=self._http,
        )

    def _or_none(self, ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except MinioAdminException as error:
            if _admin_code(error)[0] in ("XMinioAdminNoSuchUser", "XMinioAdminNoSuchPolicy"):
                return None
            raise _explained(error, self.endpoint) from error
        except (OSError, urllib3.exceptions.HTTPError) as error:
            raise _unanswered(error, self.endpoint) from error

    def _answer(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except (S3Error, MinioAdminException, ServerError, InvalidResponseError) as error:
            raise _explained(error, self.endpoint) from error
        except (OSError, urllib3.exceptions.HTTPError) as error:
            raise _unanswered(error, self.endpoint) from error


def _provider(credentials: Credentials) -> StaticProvider:
    return StaticProvider(credentials.access_key, credentials.secret_key, credentials.session_token)


def _explained(error: Exception, endpoint: str) -> FlorenceError:
    """A refusal in a line; nothing of the request, whose body may hold a secret."""
    if isinstance(error, S3Error):
        code, words = error.code or "no code", error.message or ""
    elif isinstance(error, MinioAdminException):
        code, words = _admin_code(error)
    else:
        return ConfigurationError(f"{endpoint} is not an S3 server: check --endpoint")
    if code in _WRONG_KEY:
        return ConfigurationError(
            f"{endpoint} refused ({code}): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if code == "AccessDenied":
        return ConfigurationError(
            f"{endpoint} refused ({code}): the credentials are wrong, or may not do that: use "
            "those of whoever runs the server"
        )
    return ConfigurationError(f"{endpoint} refused ({code}): {words}".rstrip(" :"))


def _admin_code(error: MinioAdminException) -> tuple[str, str]:
    """Code and words of a refusal of MinIO's admin API, whose body is JSON."""
    _, _, body = str(error).partition("Body: ")
    try:
        document = json.loads(body)
        return str(document["Code"]), str(document.get("Message", ""))
    except (ValueError, KeyError, TypeError):
        return "no code", "its answer is not MinIO's: check --endpoint"


def _unanswered(error: Exception, endpoint: str) -> TransientError:
    return TransientError(
        f"{endpoint} did not answer ({type(error).__name__}): check that the server runs and that "
        "--endpoint is right, then try again"
    )
