from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from aiohttp import ClientSession, web

from florence_operator.api.status import Attempt, JobStatus, StageStatus, State
from florence_operator.caches import Caches
from florence_operator.progress import LARGEST, Posted, ProgressBook, ProgressServer, TokenChecker
from florence_operator.runtime.client import ApiError, Client
from florence_operator.runtime.store import Key

AUDIENCE = "florence.dev/progress"


class Cache:
    """An informer that holds what a test puts in."""

    def __init__(self, *documents: dict[str, Any]) -> None:
        self.documents = {(d["metadata"]["namespace"], d["metadata"]["name"]): d for d in documents}

    def get(self, namespace: str, name: str) -> dict[str, Any] | None:
        return self.documents.get((namespace, name))


def pod(name: str, index: int = 0, attempt: int = 2, uid: str = "pod-1") -> dict[str, Any]:
    labels = {
        "florence.dev/job": "j",
        "florence.dev/job-uid": "job-1",
        "florence.dev/stage": "train",
        "florence.dev/attempt": str(attempt),
        "training.kubeflow.org/replica-index": str(index),
    }
    metadata = {"name": name, "namespace": "ns", "uid": uid, "labels": labels}
    return {"metadata": metadata, "status": {"phase": "Running"}}


def job(*, ended: str | None = None) -> dict[str, Any]:
    attempts = (Attempt(number=1, ended="x"), Attempt(number=2, ended=ended))
    stage = StageStatus(name="train", state=State.RUNNING, attempts=attempts)
    status = JobStatus(stages=(stage,)).wire()
    return {"metadata": {"name": "j", "namespace": "ns", "uid": "job-1"}, "status": status}


class Api:
    """Answers TokenReviews: a token reads ``<namespace>/<pod>/<uid>``."""

    def __init__(self) -> None:
        self.reviews = 0
        self.down = False

    async def request(self, method: str, path: str, *, body: Any) -> dict[str, Any]:
        self.reviews += 1
        if self.down:
            raise ApiError(503, "Down", "the API server is away")
        assert body["spec"]["audiences"] == [AUDIENCE]
        token = body["spec"]["token"]
        if token.count("/") != 2:
            return {"status": {"authenticated": False}}
        namespace, name, uid = token.split("/")
        extra = {
            "authentication.kubernetes.io/pod-name": [name],
            "authentication.kubernetes.io/pod-uid": [uid],
        }
        user = {"username": f"system:serviceaccount:{namespace}:default", "extra": extra}
        if name == "unbound":
            user["extra"] = {}
        audiences = ["another"] if name == "elsewhere" else [AUDIENCE]
        return {"status": {"authenticated": True, "audiences": audiences, "user": user}}


class Bench:
    """A server on a real socket, with what it is asked to do written down."""

    def __init__(self, *, ended: str | None = None) -> None:
        self.api, self.book, self.now = Api(), ProgressBook(), 1000.0
        self.enqueued: list[Key] = []
        self.forwarded: list[tuple[bytes, str]] = []
        self.leads = True
        pods = Cache(pod("p0"), pod("p1", 1, uid="pod-2"), pod("old", attempt=1, uid="pod-3"))
        caches = cast(Any, type("Caches", (), {"pods": pods, "jobs": Cache(job(ended=ended))}))
        self.server = ProgressServer(
            cast(Caches, caches),
            TokenChecker(cast(Client, self.api), AUDIENCE, lambda: self.now),
            self.book,
            clock=lambda: self.now,
            enqueue=self.enqueued.append,
            leading=lambda: self.leads,
            forward=self._forward,
        )

    async def _forward(self, body: bytes, authorization: str) -> tuple[int, bytes]:
        self.forwarded.append((body, authorization))
        return 409, b'{"error": "from the leader"}'

    def run(self, check: Callable[[Callable[..., Awaitable[tuple[int, str]]]], Any]) -> None:
        asyncio.run(self._run(check))

    async def _run(self, check: Callable[..., Any]) -> None:
        app = web.Application()
        app.router.add_post("/progress", self.server.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address = runner.addresses[0]
        async with ClientSession() as session:

            async def post(body: Any, token: str | None = "ns/p0/pod-1") -> tuple[int, str]:
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                url = f"http://127.0.0.1:{address[1]}/progress"
                async with session.post(url, data=data, headers=headers) as answer:
                    return answer.status, await answer.text()

            await check(post)
        await runner.cleanup()


def report(step: int = 1, **changes: Any) -> dict[str, Any]:
    known = {"namespace": "ns", "job": "j", "uid": "job-1", "stage": "train", "attempt": 2}
    return {**known, "progress": {"step": step, "total": 10}, **changes}


def test_a_report_of_worker_0_is_taken_and_its_token_reviewed_once_a_minute() -> None:
    bench = Bench()

    async def check(post: Any) -> None:
        for step in (1, 2, 2):
            assert (await post(report(step)))[0] == 200
        assert bench.api.reviews == 1
        # The same again is no reason to look at the job.
        assert bench.enqueued == [Key("ns", "j")] * 2
        assert bench.book.of(Key("ns", "j"), "job-1")["train", 2].progress.step == 2
        assert bench.book.of(Key("ns", "j"), "another") == {}
        bench.now += 61
        assert (await post(report(3)))[0] == 200
        assert bench.api.reviews == 2

    bench.run(check)


@pytest.mark.parametrize(
    ("body", "token", "status", "said"),
    [
        (report(), None, 401, "bearer token"),
        (report(), "nonsense", 401, "not valid"),
        (report(), "ns/elsewhere/pod-1", 401, "audience"),
        (report(), "ns/unbound/pod-1", 403, "not bound to a pod"),
        (report(), "other/p0/pod-1", 403, "namespace other"),
        (report(), "ns/p0/pod-9", 403, "of no attempt"),
        (report(), "ns/stranger/pod-1", 403, "of no attempt"),
        (report(), "ns/p1/pod-2", 403, "not worker 0"),
        (report(), "ns/old/pod-3", 403, "another attempt"),
        (report(attempt=1), "ns/p0/pod-1", 403, "another attempt"),
        (report(stage="test"), "ns/p0/pod-1", 403, "another attempt"),
        (report(attempt=1), "ns/old/pod-3", 409, "attempt 1 of train is over"),
        (report(uid="job-0"), "ns/p0/pod-1", 403, "another attempt"),
        (report(attempt=0), "ns/p0/pod-1", 400, "attempt: "),
        (report(progress={"step": "much"}), "ns/p0/pod-1", 400, "progress.step: "),
        (b"{", "ns/p0/pod-1", 400, "not JSON"),
        (b"[" * 60_000, "ns/p0/pod-1", 400, "not JSON"),
        (b"x" * (LARGEST + 1), "ns/p0/pod-1", 413, "bytes at most"),
    ],
)
def test_a_report_is_refused_with_the_reason(
    body: Any, token: str | None, status: int, said: str
) -> None:
    bench = Bench()

    async def check(post: Any) -> None:
        answered, text = await post(body, token)
        assert answered == status, text
        assert said in json.loads(text)["error"]
        assert not bench.enqueued

    bench.run(check)


def test_reports_of_an_ended_attempt_are_refused() -> None:
    bench = Bench(ended="2026-01-01T00:00:00Z")

    async def check(post: Any) -> None:
        assert (await post(report()))[0] == 409

    bench.run(check)


def test_a_refused_token_is_asked_about_again_and_an_outage_is_no_refusal() -> None:
    bench = Bench()

    async def check(post: Any) -> None:
        for _ in range(2):
            assert (await post(report(), "nonsense"))[0] == 401
        assert bench.api.reviews == 2
        bench.api.down = True
        assert (await post(report()))[0] == 503

    bench.run(check)


def test_a_replica_that_does_not_lead_passes_reports_on() -> None:
    bench = Bench()
    bench.leads = False

    async def check(post: Any) -> None:
        assert await post(b"anything", "token") == (409, '{"error": "from the leader"}')
        assert bench.forwarded == [(b"anything", "Bearer token")]
        assert bench.api.reviews == 0

    bench.run(check)


def test_a_report_is_as_old_as_the_last_step_forward() -> None:
    book, key = ProgressBook(), Key("ns", "j")
    assert book.take(Posted.model_validate(report(5)), 10.0)
    assert not book.take(Posted.model_validate(report(5)), 20.0)
    assert book.of(key, "job-1")["train", 2].received == 10.0
    faster = report(progress={"step": 5, "total": 10, "samplesPerSecond": 7.0})
    assert book.take(Posted.model_validate(faster), 30.0)
    assert book.of(key, "job-1")["train", 2].received == 10.0
    assert book.take(Posted.model_validate(report(6)), 40.0)
    assert book.of(key, "job-1")["train", 2].received == 40.0
    book.take(Posted.model_validate(report(1, attempt=3)), 50.0)
    assert list(book.of(key, "job-1")) == [("train", 3)]
    book.forget(key)
    assert book.of(key, "job-1") == {}
