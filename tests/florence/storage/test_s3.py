"""What only S3 servers do: refuse, give up, answer half, lack features. A script plays them."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from pydantic import ValidationError

from florence.config.storage import S3Settings
from florence.errors import ConfigurationError, FlorenceError, TransientError
from florence.storage import MissingKeyError, Storage, open_storage
from florence.storage import s3 as s3_module
from tests.gang import free_port

SECRET = "hush-hush"
LISTING = (
    '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{}'
    "<IsTruncated>false</IsTruncated></ListBucketResult>"
)
ITEM = (
    "<Contents><Key>{}</Key><LastModified>2026-11-26T10:00:00Z</LastModified>"
    "<Size>1</Size></Contents>"
)


class Script(ThreadingHTTPServer):
    """A server that gives scripted answers in turn, the last one for ever."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[tuple[int, bytes, dict[str, str]]] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Add an answer; header names are written with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append((status, body, named))

    def refuse(self, status: int, code: str) -> None:
        """Add an S3 error."""
        self.say(status, f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode())

    def storage(self, attempts: int = 3) -> Storage:
        settings = S3Settings(endpoint=f"http://127.0.0.1:{self.server_port}", attempts=attempts)
        return open_storage("s3://bucket/prefix", settings)


class _Handler(BaseHTTPRequestHandler):
    server: Script

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, self.path, dict(self.headers.items())))
        answers = self.server.answers
        status, body, headers = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_DELETE = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    server = Script()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def _one_line(error: FlorenceError) -> str:
    message = str(error)
    assert "\n" not in message
    assert SECRET not in message
    assert "s3://bucket/prefix" in message
    return message


@pytest.mark.parametrize(
    ("status", "code", "kind", "advice"),
    [
        (403, "InvalidAccessKeyId", ConfigurationError, "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", ConfigurationError, "AWS_SECRET_ACCESS_KEY"),
        (403, "AccessDenied", ConfigurationError, "may read, write"),
        (400, "ExpiredToken", ConfigurationError, "AWS_SESSION_TOKEN"),
        (404, "NoSuchBucket", ConfigurationError, "create the bucket"),
        (404, "NoSuchKey", MissingKeyError, "does not exist"),
        (400, "AuthorizationHeaderMalformed", ConfigurationError, "region"),
        (503, "SlowDown", TransientError, "try again"),
        (500, "InternalError", TransientError, "try again"),
        (507, "XMinioStorageFull", TransientError, "free space"),
        (418, "Teapot", ConfigurationError, "check the URI"),
    ],
)
def test_refusals_say_what_to_do(
    script: Script, status: int, code: str, kind: type[FlorenceError], advice: str
) -> None:
    script.refuse(status, code)
    storage = script.storage(attempts=2 if status < 500 else 1)
    for use in (lambda: storage.read("key"), lambda: storage.write("key", b"x")):
        with pytest.raises(kind) as caught:
            use()
        assert advice in _one_line(caught.value)


def test_a_passing_failure_is_retried(script: Script) -> None:
    script.refuse(500, "InternalError")
    script.refuse(503, "ServiceUnavailable")
    script.say(200, b"content")
    assert script.storage().read("key") == b"content"
    assert len(script.requests) == 3


def test_a_body_that_breaks_off_is_read_again(script: Script) -> None:
    script.say(200, b"cont", Content_Length="7", Connection="close")
    script.say(200, b"content")
    assert script.storage().read("key") == b"content"


def test_a_body_that_always_breaks_off_gives_up(script: Script) -> None:
    script.say(200, b"cont", Content_Length="7", Connection="close")
    with pytest.raises(TransientError) as caught:
        script.storage(attempts=2).read("key")
    assert "did not answer" in _one_line(caught.value)
    assert len(script.requests) == 2


def test_creating_once_falls_back_where_the_server_cannot(script: Script) -> None:
    script.refuse(501, "NotImplemented")
    script.say(404)  # HEAD: the key is free
    script.say(200, LISTING.format("").encode())  # the bucket is there
    script.say(200, ETag='"x"')
    assert script.storage().write_new("key", b"x")
    assert [method for method, _, _ in script.requests] == ["PUT", "HEAD", "GET", "PUT"]
    assert script.requests[0][2]["If-None-Match"] == "*"
    assert "If-None-Match" not in script.requests[-1][2]


def test_the_fallback_sees_a_key_that_is_taken(script: Script) -> None:
    script.refuse(501, "NotImplemented")
    script.say(200, Content_Length="5")
    assert not script.storage().write_new("key", b"x")
    assert [method for method, _, _ in script.requests] == ["PUT", "HEAD"]


@pytest.mark.parametrize(("stored", "ours"), [(b"mine", True), (b"else", False)])
def test_a_retry_that_meets_its_own_first_try_counts_as_created(
    script: Script, stored: bytes, ours: bool
) -> None:
    script.refuse(500, "InternalError")  # stored, but the answer was lost
    script.refuse(412, "PreconditionFailed")
    script.say(200, stored)
    assert script.storage().write_new("key", b"mine") is ours


def test_a_web_server_is_not_taken_for_s3(script: Script) -> None:
    script.say(405, b"<html>Welcome</html>", Content_Type="text/html")
    with pytest.raises(ConfigurationError) as caught:
        script.storage().write("key", b"x")
    assert "check the URI and the endpoint" in _one_line(caught.value)


def test_a_silent_endpoint_may_be_tried_again() -> None:
    settings = S3Settings(endpoint=f"http://127.0.0.1:{free_port()}", attempts=2)
    with pytest.raises(TransientError) as caught:
        open_storage("s3://bucket/prefix", settings).write("key", b"x")
    assert settings.endpoint is not None
    assert settings.endpoint in _one_line(caught.value)


def test_an_endpoint_without_a_host_is_a_configuration_error() -> None:
    settings = S3Settings(endpoint="http://no-such-host.invalid:9000", attempts=1)
    with pytest.raises((ConfigurationError, TransientError)) as caught:  # as the resolver answers
        open_storage("s3://bucket/prefix", settings).read("key")
    assert "no-such-host.invalid" in _one_line(caught.value)


def test_missing_credentials_are_a_configuration_error(
    s3_settings: S3Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ConfigurationError, match="set AWS_ACCESS_KEY_ID") as caught:
        open_storage("s3://bucket/prefix", s3_settings).read("key")
    _one_line(caught.value)


def test_a_missing_bucket_is_not_a_missing_key(s3_settings: S3Settings) -> None:
    storage = open_storage("s3://no-such-bucket-here/prefix", s3_settings)
    for use in (
        lambda: storage.size("key"),
        lambda: storage.read("key"),
        lambda: storage.list(),
        lambda: storage.write("key", b"x"),
        lambda: storage.write_new("key", b"x"),
    ):
        with pytest.raises(ConfigurationError, match="create the bucket"):
            use()


@pytest.mark.parametrize(
    "endpoint", ["minio:9000", "ftp://minio", "http://", "http://k:hush-hush@minio", "http://m:x"]
)
def test_endpoints_are_checked_and_passwords_not_repeated(endpoint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        S3Settings(endpoint=endpoint)
    assert SECRET not in "; ".join(error["msg"] for error in caught.value.errors())


def test_the_environment_may_name_the_endpoint(
    s3_settings: S3Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert s3_settings.endpoint is not None
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_settings.endpoint)
    assert open_storage("s3://florence-tests/none").size("key") is None


def test_large_bodies_go_up_in_parts_and_leave_no_part_behind(
    s3_storage: Storage, tmp_path: Path
) -> None:
    block = hashlib.sha256(b"seed").digest() * 4096
    body = block * (s3_module.PART_BYTES // len(block)) + b"tail"
    s3_storage.write("view", memoryview(body))
    assert s3_storage.size("view") == len(body)
    assert s3_storage.read_range("view", s3_module.PART_BYTES, 100) == b"tail"
    assert hashlib.sha256(s3_storage.read("view")).digest() == hashlib.sha256(body).digest()
    (tmp_path / "file").write_bytes(body)
    s3_storage.write("file", tmp_path / "file")
    assert s3_storage.read_range("file", len(body) - 40, 100) == body[-40:]
    assert s3_storage.sweep_unfinished(before=time.time() + 3600) == 0


@pytest.mark.skipif(
    "FLORENCE_S3_ENDPOINT" in os.environ,
    reason="MinIO lists an upload under its whole key only, and drops dead ones itself after a day",
)
def test_uploads_that_died_are_swept(s3_storage: Storage) -> None:
    assert isinstance(s3_storage, s3_module.S3Storage)
    client = s3_storage._s3()
    client.create_multipart_upload(**s3_storage._object("dead/key"))
    assert s3_storage.list() == []
    assert s3_storage.sweep_unfinished(before=0.0) == 0  # moto dates all uploads to 2010
    assert s3_storage.sweep_unfinished(before=time.time() + 3600) == 1
    assert s3_storage.sweep_unfinished(before=time.time() + 3600) == 0


@pytest.mark.parametrize("listed", [[], ["prefix/key2"]])
def test_a_refusal_of_a_key_that_a_listing_lacks_says_that_it_is_missing(
    script: Script, listed: list[str]
) -> None:
    """Amazon answers so who may list no more than a prefix."""
    script.say(403)
    script.say(200, LISTING.format("".join(map(ITEM.format, listed))).encode())
    assert script.storage().size("key") is None
    script.answers.clear()
    script.refuse(403, "AccessDenied")
    script.say(200, LISTING.format("".join(map(ITEM.format, listed))).encode())
    with pytest.raises(MissingKeyError):
        script.storage().read("key")


@pytest.mark.parametrize("listing", ["refused", "it is there"])
def test_another_refusal_is_one(script: Script, listing: str) -> None:
    for use in ("read", "size"):
        script.answers.clear()
        script.refuse(403, "AccessDenied")
        if listing == "refused":
            script.refuse(403, "AccessDenied")
        else:
            script.say(200, LISTING.format(ITEM.format("prefix/key")).encode())
        with pytest.raises(ConfigurationError, match="refused"):
            getattr(script.storage(), use)("key")


def test_who_may_not_list_uploads_leaves_them_to_the_buckets_rule(script: Script) -> None:
    script.refuse(403, "AccessDenied")
    assert script.storage().sweep_unfinished(before=time.time()) == 0
    script.answers.clear()
    script.refuse(403, "SignatureDoesNotMatch")
    with pytest.raises(ConfigurationError, match="SignatureDoesNotMatch"):
        script.storage().sweep_unfinished(before=time.time())


def test_a_server_that_creates_once_is_found_out(s3_storage: Storage) -> None:
    assert isinstance(s3_storage, s3_module.S3Storage)
    assert s3_storage.creates_once("probe")
    assert s3_storage.read("probe") == b"first"


def test_a_server_that_creates_twice_is_found_out(script: Script) -> None:
    for status, code in ((501, "NotImplemented"), (200, "")):  # it says no, or does not care
        script.answers.clear()
        script.refuse(status, code) if code else script.say(status)
        storage = script.storage(attempts=1)
        assert isinstance(storage, s3_module.S3Storage)
        assert not storage.creates_once("probe")
