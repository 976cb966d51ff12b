"""Objects in an S3 bucket: Amazon's, MinIO's or any server with the same interface."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions as failures
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from florence.config.storage import S3Settings
from florence.errors import ConfigurationError
from florence.storage.protocol import Body, Entry, MissingKeyError, checked_key
from florence.storage.s3_errors import explained, is_missing

PART_BYTES = 64 << 20
"""Larger bodies go up in parts of this size: small enough to retry, large enough to be few."""

_TRANSFER = TransferConfig(
    multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4
)
_BROKEN_BODY = (
    failures.ReadTimeoutError,
    failures.IncompleteReadError,
    failures.ResponseStreamingError,
    failures.ConnectionClosedError,
)

_REFUSED = ("AccessDenied", "403", "Forbidden")


class S3Storage:
    """A :class:`~florence.storage.protocol.Storage` in a bucket, under a prefix.

    An upload becomes visible when its last byte has arrived, so writes are atomic by nature.
    Creating once uses ``If-None-Match: *``. The client is made on first use in each process, since
    boto3's must not cross a fork; pickling carries the settings only.
    """

    def __init__(self, bucket: str, prefix: str, settings: S3Settings) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self.settings = settings
        self._lock = threading.Lock()
        self._client: tuple[int, Any] | None = None
        self._bucket_found = False

    def __repr__(self) -> str:
        return f"S3Storage({self.uri!r})"

    def __reduce__(self) -> tuple[type[S3Storage], tuple[str, str, S3Settings]]:
        return type(self), (self.bucket, self.prefix, self.settings)

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def url(self, key: str) -> str:
        return f"{self.uri}/{key}"

    def read(self, key: str) -> bytes:
        return self._get(key)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        if length == 0:
            if self.size(key) is None:
                raise MissingKeyError(self.url(key))
            return b""
        return self._get(key, Range=f"bytes={start}-{start + length - 1}")

    def write(self, key: str, data: Body) -> None:
        with self._errors(key):
            if isinstance(data, bytes) and len(data) <= PART_BYTES:
                self._s3().put_object(**self._object(key), Body=data)
            else:
                with _opened(data) as body:
                    self._s3().upload_fileobj(body, self.bucket, self._name(key), Config=_TRANSFER)

    def write_new(self, key: str, data: Body) -> bool:
        created = self._create(key, data)
        return self._write_if_absent(key, data) if created is None else created

    def creates_once(self, key: str) -> bool:
        """Whether the server itself refuses to create an object twice; ``key`` must be free.

        It is written, and left there.
        """
        return self._create(key, b"first") is True and self._create(key, b"second") is False

    def size(self, key: str) -> int | None:
        with self._errors(key):
            try:
                head = self._s3().head_object(**self._object(key))
            except failures.ClientError as error:
                if self._is_hidden(key, error):
                    return None
                if not is_missing(_code(error)):
                    raise
                self._find_bucket()  # HEAD has no body to tell a missing bucket from a missing key
                return None
            return int(head["ContentLength"])

    def list(self, prefix: str = "") -> list[Entry]:
        root = f"{self.prefix}/" if self.prefix else ""
        entries = []
        with self._errors(prefix):
            pages = self._s3().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=root + prefix):
                for item in page.get("Contents", ()):
                    key = item["Key"].removeprefix(root)
                    if not key.endswith("/"):  # some consoles store empty objects as folders
                        modified = item["LastModified"].timestamp()
                        entries.append(Entry(key, item["Size"], modified))
        return sorted(entries)

    def is_empty(self) -> bool:
        """Whether nothing is stored under the prefix, by one request."""
        root = f"{self.prefix}/" if self.prefix else ""
        with self._errors(""):
            page = self._s3().list_objects_v2(Bucket=self.bucket, Prefix=root, MaxKeys=1)
            return not page.get("KeyCount")

    def delete(self, key: str) -> None:
        with self._errors(key):
            self._s3().delete_object(**self._object(key))

    def sweep_unfinished(self, before: float) -> int:
        root = f"{self.prefix}/" if self.prefix else ""
        stale = []
        with self._errors(""):
            try:
                pages = self._s3().get_paginator("list_multipart_uploads")
                for page in pages.paginate(Bucket=self.bucket, Prefix=root):
                    uploads = page.get("Uploads", ())
                    stale += [u for u in uploads if u["Initiated"].timestamp() < before]
            except failures.ClientError as error:
                # The right to list uploads cannot be held to a prefix, so credentials of one
                # namespace lack it; the bucket's own rule removes what died.
                if _code(error) not in _REFUSED:
                    raise
                return 0
            for upload in stale:
                self._abort(upload)
        return len(stale)

    def _abort(self, upload: dict[str, Any]) -> None:
        self._s3().abort_multipart_upload(
            Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
        )

    def _create(self, key: str, data: Body) -> bool | None:
        """Store an object unless its key is taken; None where the server has no such request."""
        with self._errors(key), _opened(data) as body:
            try:
                self._s3().put_object(**self._object(key), Body=body, IfNoneMatch="*")
                return True
            except failures.ClientError as error:
                code, response = _code(error), error.response["ResponseMetadata"]
                if code in ("PreconditionFailed", "412"):
                    # A retry may have met what its own first try stored before the answer was lost.
                    return bool(response.get("RetryAttempts")) and self._holds(key, data)
                if code in ("ConditionalRequestConflict", "409"):
                    return False  # another writer is creating it at this moment
                if code not in ("NotImplemented", "501"):
                    raise
        return None

    def _write_if_absent(self, key: str, data: Body) -> bool:
        if self.size(key) is not None:
            return False
        self.write(key, data)
        return True

    def _holds(self, key: str, data: Body) -> bool:
        return self.read(key) == (data.read_bytes() if isinstance(data, Path) else bytes(data))

    def _get(self, key: str, **options: str) -> bytes:
        """The body of a GET, asked for again when the connection breaks in its middle."""
        with self._errors(key):
            for attempt in range(1, self.settings.attempts + 1):
                try:
                    answer = self._s3().get_object(**self._object(key), **options)
                    return bytes(answer["Body"].read())
                except _BROKEN_BODY:
                    if attempt == self.settings.attempts:
                        raise
                    time.sleep(min(2.0**attempt / 10, 5.0))
                except failures.ClientError as error:
                    if _code(error) in ("InvalidRange", "416"):
                        return b""
                    if self._is_hidden(key, error):
                        raise MissingKeyError(self.url(key)) from error
                    raise
        raise AssertionError("the loop returns or raises")

    def _find_bucket(self) -> None:
        """Raises what the server says of a missing bucket."""
        if not self._bucket_found:
            # Not HeadBucket: who may list no more than a prefix is refused that.
            root = f"{self.prefix}/" if self.prefix else ""
            self._s3().list_objects_v2(Bucket=self.bucket, Prefix=root, MaxKeys=1)
            self._bucket_found = True

    def _is_hidden(self, key: str, error: failures.ClientError) -> bool:
        """Whether a refusal stands for "no such key".

        Amazon answers 403 for a missing key to who may list no more than a prefix.
        """
        if _code(error) not in _REFUSED:
            return False
        name = self._name(key)
        try:
            page = self._s3().list_objects_v2(Bucket=self.bucket, Prefix=name, MaxKeys=1)
        except failures.ClientError:
            return False
        # A key comes before all that begin with it.
        return name not in {item["Key"] for item in page.get("Contents", ())}

    def _name(self, key: str) -> str:
        return f"{self.prefix}/{checked_key(key)}" if self.prefix else checked_key(key)

    def _object(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._name(key)}

    def _s3(self) -> Any:
        with self._lock:
            if self._client is None or self._client[0] != os.getpid():
                self._client = os.getpid(), _connect(self.settings)
            return self._client[1]

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except (failures.BotoCoreError, failures.ClientError, failures.HTTPClientError) as error:
            raise explained(error, self.url(key), self._endpoint()) from error

    def _endpoint(self) -> str:
        return self.settings.endpoint or _endpoint_from_environment() or "Amazon S3"


def _connect(settings: S3Settings) -> Any:
    endpoint = settings.endpoint or _endpoint_from_environment()
    session = boto3.session.Session()
    # "when_required": servers other than Amazon's refuse or corrupt the newer trailing checksums.
    config = Config(
        s3={"addressing_style": "path" if endpoint else "auto"},
        retries={"mode": "adaptive", "total_max_attempts": settings.attempts},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=16,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    region = settings.region or session.region_name or "us-east-1"
    try:
        return session.client("s3", endpoint_url=endpoint, region_name=region, config=config)
    except ValueError:
        raise ConfigurationError(
            "the S3 endpoint is not a valid address: write it like http://minio:9000"
        ) from None


def _endpoint_from_environment() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _code(error: failures.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _opened(data: Body) -> io.BufferedIOBase:
    if isinstance(data, Path):
        return data.open("rb")
    return io.BytesIO(data) if isinstance(data, bytes) else io.BufferedReader(_ViewReader(data))


class _ViewReader(io.RawIOBase):
    """A memoryview as a file, without the copy of the whole that ``io.BytesIO`` would make."""

    def __init__(self, view: memoryview) -> None:
        self._view = view.cast("B")
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._view)}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        chunk = self._view[self._position : self._position + len(buffer)]
        buffer[: len(chunk)] = chunk
        self._position += len(chunk)
        return len(chunk)
