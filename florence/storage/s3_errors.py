"""What S3's failures mean to the user: what is wrong, where, and what to do. Never a secret."""

from __future__ import annotations

import socket

import botocore.exceptions as failures
from botocore.parsers import ResponseParserError

from florence.errors import ConfigurationError, FlorenceError, NoSpaceError, TransientError
from florence.storage.protocol import MissingKeyError

_VARIABLES = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_CREDENTIALS = f"check {_VARIABLES}"
_ADVICE = {
    "InvalidAccessKeyId": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "AuthorizationHeaderMalformed": "check the region setting",
    "ExpiredToken": "renew the session token in AWS_SESSION_TOKEN",
    "InvalidToken": "check AWS_SESSION_TOKEN",
    "AccessDenied": "check that these credentials may read, write, list and delete there",
    "AllAccessDisabled": "check that these credentials may read, write, list and delete there",
    "Unauthorized": _CREDENTIALS,
    "401": _CREDENTIALS,
    "403": f"{_CREDENTIALS} and what they may do there",
    "RequestTimeTooSkewed": "set this machine's clock",
    "NoSuchBucket": "create the bucket or correct its name",
    "InvalidBucketName": "correct the bucket's name",
    "PermanentRedirect": "set the region the bucket is in",
    "301": "set the region the bucket is in",
    "307": "check the endpoint",
    "405": "check that the endpoint is an S3 server",
    "MethodNotAllowed": "check that the endpoint is an S3 server",
}
_FULL = {"XMinioStorageFull", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "507"}


def is_missing(code: str) -> bool:
    """Whether an error code says that an object is not there."""
    return code in ("NoSuchKey", "404", "NotFound")


def explained(error: Exception, url: str, endpoint: str) -> FlorenceError:
    """The error that the user sees for a failed request about ``url`` at ``endpoint``."""
    if isinstance(error, failures.ClientError):
        return _answered(error, url, endpoint)
    if isinstance(error, failures.NoCredentialsError | failures.PartialCredentialsError):
        return ConfigurationError(f"{url}: no complete S3 credentials found: set {_VARIABLES}")
    if isinstance(error, failures.SSLError):
        return ConfigurationError(
            f"{url}: {endpoint} speaks no TLS that this machine trusts: check http or https there"
        )
    if isinstance(error, ResponseParserError):
        return ConfigurationError(f"{url}: {endpoint} is not an S3 server: check the endpoint")
    if _name_is_unknown(error):
        return ConfigurationError(f"{url}: nobody knows the host of {endpoint}: check the endpoint")
    if isinstance(error, failures.HTTPClientError | failures.ConnectionError):
        return TransientError(
            f"{url}: {endpoint} did not answer ({type(error).__name__}): "
            "check that the server runs and the endpoint is right, then try again"
        )
    return ConfigurationError(
        f"{url}: the S3 client refused the request ({type(error).__name__}): "
        "check the URI and the AWS settings"
    )


def _answered(error: failures.ClientError, url: str, endpoint: str) -> FlorenceError:
    code = str(error.response.get("Error", {}).get("Code", "")) or "no code"
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if is_missing(code):
        return MissingKeyError(url)
    if code in _FULL:
        return NoSpaceError(
            f"{url} cannot be written, {endpoint} is full: free space and try again"
        )
    if code in _ADVICE:
        return ConfigurationError(f"{url}: {endpoint} refused ({code}): {_ADVICE[code]}")
    if status >= 500 or status == 429 or code in ("SlowDown", "RequestTimeout"):
        return TransientError(f"{url}: {endpoint} gave up ({code}, HTTP {status}): try again later")
    return ConfigurationError(
        f"{url}: {endpoint} refused ({code}, HTTP {status}): check the URI and the endpoint"
    )


def _name_is_unknown(error: BaseException) -> bool:
    """Whether the endpoint's host does not exist, rather than not answering for now."""
    seen: set[int] = set()
    pending: list[object] = [error]
    while pending:
        cause = pending.pop()
        if not isinstance(cause, BaseException) or id(cause) in seen:
            continue
        seen.add(id(cause))
        if isinstance(cause, socket.gaierror):
            return cause.errno == socket.EAI_NONAME
        pending += [cause.__cause__, cause.__context__, getattr(cause, "reason", None)]
        if isinstance(cause, failures.BotoCoreError):
            pending.append(cause.kwargs.get("error"))
    return False
