"""From a URI to a storage."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from florence.config.storage import S3Settings
from florence.errors import ConfigurationError
from florence.storage.folder import FolderStorage
from florence.storage.protocol import Storage, checked_key

_BUCKET = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,61}[a-zA-Z0-9]")


def open_storage(uri: str, s3: S3Settings | None = None) -> Storage:
    """The storage at ``/folder``, ``folder``, ``file:///folder`` or ``s3://bucket/prefix``.

    Nothing is contacted or created yet. ``s3`` says where ``s3://`` URIs lead; without it that is
    ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL``, else Amazon. Raises ``ConfigurationError``.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        if not uri:
            raise ConfigurationError("a storage URI is empty: give a folder or s3://bucket/prefix")
        return FolderStorage(uri)
    if scheme == "file":
        return FolderStorage(_folder_of(uri))
    if scheme == "s3":
        from florence.storage.s3 import S3Storage

        bucket, prefix = _bucket_and_prefix(rest)
        return S3Storage(bucket, prefix, s3 or S3Settings())
    raise ConfigurationError(
        f"{scheme}:// is not a storage this can open: use a folder, file:///folder or s3://bucket/prefix"
    )


def check_uri(uri: str) -> None:
    """Refuse a URI that :func:`open_storage` could not open, without the S3 client.

    Raises:
        ConfigurationError: it leads to no storage.
    """
    scheme, separator, rest = uri.partition("://")
    if separator and scheme == "s3":
        _bucket_and_prefix(rest)
    else:
        open_storage(uri)


def _folder_of(uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise ConfigurationError(f"{uri} is not a local folder: write file:///folder")
    return Path(unquote(parts.path))


def _bucket_and_prefix(rest: str) -> tuple[str, str]:
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket:  # not echoed: what stands before the @ may be a secret
        raise ConfigurationError(
            "an s3:// URI holds credentials: write s3://bucket/prefix "
            "and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if not _BUCKET.fullmatch(bucket):
        raise ConfigurationError(f"s3://{rest} names no valid bucket: write s3://bucket/prefix")
    prefix = prefix.strip("/")
    try:
        return bucket, checked_key(prefix) if prefix else ""
    except ValueError as error:
        raise ConfigurationError(f"s3://{rest}: {error}") from None
