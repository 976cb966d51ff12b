from __future__ import annotations

import json
import socket
import ssl
import threading
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from florence.config.progress import StageProgress
from florence_jobs.local.progress_server import ProgressServer
from florence_jobs.progress import Heartbeat, ProgressReporter
from florence_operator.api import StagePlan
from florence_operator.api.stage import ProgressTarget

PLAN = StagePlan.model_validate(
    {
        "job": "j",
        "namespace": "n",
        "uid": "u",
        "stage": "mixed",
        "attempt": 3,
        "kind": "pretrain",
        "config": {"data": "d", "batchSize": 1, "steps": 1},
        "model": {},
        "output": "/o",
    }
)


class Inbox:
    def __init__(self) -> None:
        self.reports: list[tuple[str, int, StageProgress]] = []
        self.arrived = threading.Condition()

    def __call__(self, stage: str, attempt: int, progress: StageProgress) -> None:
        with self.arrived:
            self.reports.append((stage, attempt, progress))
            self.arrived.notify()

    def wait_for(self, step: int) -> None:
        with self.arrived:
            assert self.arrived.wait_for(
                lambda: bool(self.reports) and self.reports[-1][2].step == step, timeout=20
            )


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("secret\n")
    return path


def test_reports_travel_over_a_real_socket(token_file: Path) -> None:
    inbox = Inbox()
    server = ProgressServer("secret", inbox)
    target = ProgressTarget(url=server.url, token_file=str(token_file), interval_seconds=0.05)
    reporter = ProgressReporter(target, PLAN)
    reporter.report(StageProgress(phase="train", step=7, total=9, loss=0.5, samples=70))
    inbox.wait_for(7)
    reporter.report(StageProgress(phase="train", step=8, total=9))
    reporter.close()
    inbox.wait_for(8)
    server.close()
    assert inbox.reports[0][:2] == ("mixed", 3)
    assert inbox.reports[0][2] == StageProgress(
        phase="train", step=7, total=9, loss=0.5, samples=70
    )


def test_only_the_newest_report_is_sent_after_a_slow_delivery(token_file: Path) -> None:
    sent: list[int] = []
    first_is_under_way, go_on = threading.Event(), threading.Event()

    def post(url: str, body: bytes, token: str | None, ca_file: str | None) -> None:
        sent.append(json.loads(body)["progress"]["step"])
        first_is_under_way.set()
        assert go_on.wait(20)

    target = ProgressTarget(url="http://x", token_file=str(token_file), interval_seconds=60)
    reporter = ProgressReporter(target, PLAN, post=post)
    reporter.report(StageProgress(phase="train", step=1))
    assert first_is_under_way.wait(20)
    for step in range(2, 100):  # none of these calls waits for the delivery
        reporter.report(StageProgress(phase="train", step=step))
    go_on.set()
    reporter.close()
    assert sent == [1, 99]


def test_a_receiver_that_is_away_is_tolerated_and_told_once(
    caplog: pytest.LogCaptureFixture, token_file: Path
) -> None:
    tries = threading.Semaphore(0)

    def post(url: str, body: bytes, token: str | None, ca_file: str | None) -> None:
        tries.release()
        raise urllib.error.URLError("connection refused")

    target = ProgressTarget(url="http://x", token_file=str(token_file), interval_seconds=0.01)
    reporter = ProgressReporter(target, PLAN, post=post)
    reporter.report(StageProgress(phase="train", step=1))
    for _ in range(3):
        assert tries.acquire(timeout=20)
    reporter.close()
    assert len([r for r in caplog.records if "cannot be reported" in r.message]) == 1
    assert "secret" not in caplog.text


def test_a_report_goes_out_at_every_interval_although_nothing_changes(token_file: Path) -> None:
    inbox = Inbox()
    server = ProgressServer("secret", inbox)
    target = ProgressTarget(url=server.url, token_file=str(token_file), interval_seconds=0.02)
    reporter = ProgressReporter(target, PLAN)
    reporter.report(StageProgress(step=7))
    with inbox.arrived:
        assert inbox.arrived.wait_for(lambda: len(inbox.reports) >= 3, timeout=20)
    reporter.close()
    server.close()
    assert {progress.step for _, _, progress in inbox.reports} == {7}


@pytest.mark.parametrize(
    ("record", "age", "told"),
    [
        (None, 0, StageProgress(phase="start")),
        ("{not JSON", 60, StageProgress(phase="start")),
        ('{"phase": "train", "step": 7}', 60, StageProgress(phase="train", step=7)),
        ('{"phase": "train", "step": 7}', 0, None),
    ],
)
def test_a_pod_reports_for_a_stage_that_does_not(
    record: str | None, age: float, told: StageProgress | None, tmp_path: Path, token_file: Path
) -> None:
    """Its process may hang so that none of its threads runs: that is no silence."""
    path = tmp_path / "progress.json"
    if record is not None:
        path.write_text(record)
    begun = path.stat().st_mtime if record is not None else 0.0
    asked, sent = threading.Semaphore(0), threading.Semaphore(0)
    bodies: list[dict[str, Any]] = []

    def now() -> float:
        asked.release()
        return begun + age

    def post(url: str, body: bytes, token: str | None, ca_file: str | None) -> None:
        bodies.append(json.loads(body))
        sent.release()

    target = ProgressTarget(url="http://x", token_file=str(token_file), interval_seconds=0.02)
    heartbeat = Heartbeat(target, PLAN, path, post=post, now=now)
    for _ in range(3):
        assert (sent if told is not None else asked).acquire(timeout=20)
    heartbeat.close()
    reports = [StageProgress.model_validate(body["progress"]) for body in bodies]
    assert set(map(str, reports)) == ({str(told)} if told is not None else set())
    assert all((body["stage"], body["attempt"]) == ("mixed", 3) for body in bodies)


class Scripted:
    """A receiver that answers its first connections with given bytes and then as it should."""

    def __init__(self, *answers: bytes) -> None:
        self.steps: list[int] = []
        self.paths: list[str] = []
        self._answers = list(answers)
        self._heard = threading.Condition()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/progress"
        threading.Thread(target=self._serve, daemon=True).start()

    def wait_for(self, reports: int) -> None:
        with self._heard:
            assert self._heard.wait_for(lambda: len(self.steps) >= reports, timeout=30)

    def _serve(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            with connection, connection.makefile("rb") as stream:
                self._answer(connection, stream)

    def _answer(self, connection: socket.socket, stream: Any) -> None:
        path = stream.readline().split()[1].decode()
        length = 0
        while (line := stream.readline()) != b"\r\n":
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        step = json.loads(stream.read(length))["progress"]["step"]
        answer = self._answers.pop(0) if self._answers else b"HTTP/1.1 204 No Content\r\n\r\n"
        with self._heard:
            self.steps.append(step)
            self.paths.append(path)
            self._heard.notify()
        if answer == DRIBBLE:
            for _ in iter(lambda: self._sent(connection), False):
                pass
        else:
            connection.sendall(answer)

    @staticmethod
    def _sent(connection: socket.socket) -> bool:
        """Whether one more byte of an endless header went out."""
        connection.settimeout(0.05)
        try:
            if connection.recv(1) == b"":
                return False  # the reporter gave up
        except TimeoutError:
            pass
        except OSError:
            return False
        connection.sendall(b"x")
        return True


DRIBBLE = b"one byte at a time, for ever"
ODD_ANSWERS = {
    "garbage": b"garbage\r\n\r\n",
    "nothing": b"",
    "half a status": b"HTTP/1.1 2",
    "no number": b"HTTP/1.1 abc OK\r\n\r\n",
    "binary": bytes(range(256)) * 4,
    "a long line": b"HTTP/1.1 200 " + b"x" * 70_000,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    "a bad length": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    "bad chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "an error": b"HTTP/1.1 500 Sorry\r\n\r\n",
    "a redirect": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\n\r\n",
    "a redirect to itself": b"HTTP/1.1 307 Again\r\nLocation: /progress\r\n\r\n",
    "a redirect to nonsense": b"HTTP/1.1 302 Found\r\nLocation: http://[::1/\r\n\r\n",
    "an early hint for ever": b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
    "a dribble": DRIBBLE,
}


@pytest.mark.parametrize("answer", ODD_ANSWERS.values(), ids=list(ODD_ANSWERS))
def test_reports_go_on_after_any_answer(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("florence_jobs.progress._ANSWER_SECONDS", 0.5)
    receiver = Scripted(answer, answer)
    target = ProgressTarget(url=receiver.url, interval_seconds=0.02)
    reporter = ProgressReporter(target, PLAN)
    reporter.report(StageProgress(phase="train", step=1))
    receiver.wait_for(2)
    reporter.report(StageProgress(phase="train", step=2))
    receiver.wait_for(4)
    reporter.close()
    assert receiver.steps[-1] == 2
    assert set(receiver.paths) == {"/progress"}


@pytest.mark.parametrize("url", ["nonsense", "http://", "http://x:port/", "ftp://x/"])
def test_an_address_that_is_none_is_told_and_the_reporter_lives(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    reporter = ProgressReporter(ProgressTarget(url=url, interval_seconds=0.01), PLAN)
    reporter.report(StageProgress(phase="train", step=1))
    reporter.report(StageProgress(phase="evaluate", step=1))
    assert reporter._thread.is_alive()
    reporter.close()
    reporter._thread.join(20)
    assert not reporter._thread.is_alive()
    assert "cannot be reported" in caplog.text


def test_a_stage_that_gets_no_further_is_still_heard() -> None:
    receiver = Scripted()
    reporter = ProgressReporter(ProgressTarget(url=receiver.url, interval_seconds=0.02), PLAN)
    reporter.report(StageProgress(phase="train", step=7))
    receiver.wait_for(5)
    reporter.close()
    assert set(receiver.steps) == {7}


def test_a_proxy_never_sees_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    receiver, proxy = Scripted(), Scripted()
    monkeypatch.setenv("http_proxy", proxy.url)
    reporter = ProgressReporter(ProgressTarget(url=receiver.url, interval_seconds=0.02), PLAN)
    reporter.report(StageProgress(phase="train", step=7))
    receiver.wait_for(1)
    reporter.close()
    assert proxy.steps == []


@pytest.mark.parametrize(
    ("token", "body", "status"),
    [
        ("wrong", b"{}", 401),
        ("secret", b"not json", 400),
        ("secret", b'{"stage": "s", "attempt": 1, "progress": {"step": -1}}', 400),
        ("secret", b"x" * 70_000, 413),
    ],
)
def test_anything_but_a_report_of_ours_is_refused(token: str, body: bytes, status: int) -> None:
    inbox = Inbox()
    server = ProgressServer("secret", inbox)
    request = urllib.request.Request(
        server.url, data=body, headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=20)
        assert caught.value.code == status
    finally:
        server.close()
    assert inbox.reports == []


def test_the_server_must_show_a_certificate_of_the_given_ca(tmp_path: Path) -> None:
    inbox, token = Inbox(), tmp_path / "token"
    token.write_text("t")
    server = ProgressServer("t", inbox)
    make_certificate(tmp_path, "ours")
    make_certificate(tmp_path, "others")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ours.crt", tmp_path / "ours.key")
    server._server.socket = context.wrap_socket(server._server.socket, server_side=True)
    url = server.url.replace("http:", "https:")
    for name, arrives in (("others", False), ("ours", True)):
        target = ProgressTarget(
            url=url, token_file=str(token), ca_file=str(tmp_path / f"{name}.crt")
        )
        reporter = ProgressReporter(target, PLAN, record=tmp_path / "record.json")
        reporter.report(StageProgress(phase="train", step=5, total=9))
        reporter.close()
        assert bool(inbox.reports) is arrives
        assert json.loads((tmp_path / "record.json").read_text())["step"] == 5
    server.close()


def make_certificate(folder: Path, name: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
