from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import ClientSession, web

from florence_operator.api.status import Attempt, JobStatus, StageStatus, State
from florence_operator.backends.protocol import Child
from florence_operator.kube.client import ApiError, Client
from florence_operator.observe.caches import Caches
from florence_operator.progress.reports import News, Posted, ProgressBook
from florence_operator.progress.server import LARGEST, ProgressServer
from florence_operator.progress.tokens import (
    REFUSED_SECONDS,
    REVIEWS_AT_ONCE,
    RefusedError,
    TokenChecker,
    claimed,
)
from florence_operator.runtime.store import Key

AUDIENCE = "florence.dev/progress"
CHILDREN = {
    f"j-train-a{n}": Child(
        kind="PyTorchJob", name=f"j-train-a{n}", uid=f"child-{n}", stage="train", attempt=n
    )
    for n in (1, 2)
}


TRAIN = "j-again-a1"
CHILDREN[TRAIN] = Child(
    kind="TrainJob", name=TRAIN, uid="child-3", stage="again", attempt=1, created=1767225600.0
)


def train_pod(
    name: str, uid: str, job: str, index: int = 0, created: str = "2026-01-01T00:00:01Z"
) -> dict[str, Any]:
    """A pod of a TrainJob, whose controller is the Job that JobSet made."""
    labels = {
        "florence.dev/job": "j",
        "florence.dev/job-uid": "job-1",
        "florence.dev/stage": "again",
        "florence.dev/attempt": "1",
        "jobset.sigs.k8s.io/jobset-name": TRAIN,
        "batch.kubernetes.io/job-completion-index": str(index),
    }
    owner = {"kind": "Job", "name": job, "uid": "the-jobs", "controller": True}
    metadata = {
        **{"name": name, "namespace": "ns", "uid": uid, "labels": labels},
        **{"ownerReferences": [owner], "creationTimestamp": created},
    }
    return {"metadata": metadata, "status": {"phase": "Running"}}


class Cache:
    """An informer that holds what a test puts in."""

    def __init__(self, *documents: dict[str, Any]) -> None:
        self.documents = {(d["metadata"]["namespace"], d["metadata"]["name"]): d for d in documents}

    def get(self, namespace: str, name: str) -> dict[str, Any] | None:
        return self.documents.get((namespace, name))


def pod(
    name: str, index: int = 0, attempt: int = 2, uid: str = "pod-1", child: str | None = None
) -> dict[str, Any]:
    labels = {
        "florence.dev/job": "j",
        "florence.dev/job-uid": "job-1",
        "florence.dev/stage": "train",
        "florence.dev/attempt": str(attempt),
        "training.kubeflow.org/replica-index": str(index),
    }
    owner = {"uid": child or f"child-{attempt}", "controller": True}
    metadata = {"name": name, "namespace": "ns", "uid": uid, "labels": labels}
    metadata["ownerReferences"] = [owner] if child != "" else []
    return {"metadata": metadata, "status": {"phase": "Running"}}


def job(*, ended: str | None = None) -> dict[str, Any]:
    attempts = (Attempt(number=1, completion_time="x"), Attempt(number=2, completion_time=ended))
    stage = StageStatus(name="train", state=State.RUNNING, attempts=attempts)
    status = JobStatus(stages=(stage,)).wire()
    return {"metadata": {"name": "j", "namespace": "ns", "uid": "job-1"}, "status": status}


def token(pod: str = "ns/p0/pod-1", signature: str = "good") -> str:
    """A service account's token of a pod, which is given as ``<namespace>/<name>/<uid>``."""
    namespace, name, uid = pod.split("/")
    claims = {"kubernetes.io": {"namespace": namespace, "pod": {"name": name, "uid": uid}}}
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"header.{payload}.{signature}"


GOOD = token()


class Api:
    """Answers TokenReviews by the token's signature."""

    def __init__(self) -> None:
        self.reviews = 0
        self.down = False

    def unlimited(self) -> Api:
        return self

    async def request(self, method: str, path: str, *, body: Any) -> dict[str, Any]:
        self.reviews += 1
        if self.down:
            raise ApiError(503, "Down", "the API server is away")
        assert body["spec"]["audiences"] == [AUDIENCE]
        _, payload, signature = body["spec"]["token"].split(".")
        if signature.startswith("forged"):
            return {"status": {"authenticated": False}}
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        bound = claims["kubernetes.io"]["pod"]
        extra = {
            "authentication.kubernetes.io/pod-name": [bound["name"]],
            "authentication.kubernetes.io/pod-uid": [bound["uid"]],
        }
        user = {"username": "system:serviceaccount:ns:default", "extra": extra}
        if signature == "of-nobody":
            user["extra"] = {}
        if signature == "of-another":
            extra["authentication.kubernetes.io/pod-name"] = ["p1"]
        if signature == "of-a-person":
            user["username"] = "alice"
        audiences = ["another"] if signature == "elsewhere" else [AUDIENCE]
        return {"status": {"authenticated": True, "audiences": audiences, "user": user}}


class Bench:
    """A server on a real socket, with what it is asked to do written down."""

    def __init__(self, *, ended: str | None = None) -> None:
        self.api, self.book, self.now = Api(), ProgressBook(), 1000.0
        self.enqueued: list[Key] = []
        self.in_turn: list[Key] = []
        self.forwarded: list[tuple[bytes, str]] = []
        self.leads = True
        pods = Cache(
            pod("p0"),
            pod("p1", 1, uid="pod-2"),
            pod("old", attempt=1, uid="pod-3"),
            pod("nobodys", uid="pod-4", child=""),
            pod("anothers", uid="pod-5", child="child-1"),
            train_pod("trains", "pod-6", f"{TRAIN}-node-0"),
            train_pod("train1", "pod-7", f"{TRAIN}-node-0", index=1),
            train_pod("forged", "pod-8", "another-node-0"),
            train_pod("older", "pod-9", f"{TRAIN}-node-0", created="2025-12-31T23:59:59Z"),
        )
        caches = SimpleNamespace(
            pods=pods, jobs=Cache(job(ended=ended)), children_of=lambda key, uid: CHILDREN
        )
        self.server = ProgressServer(
            cast(Caches, caches),
            TokenChecker(cast(Client, self.api), AUDIENCE, lambda: self.now),
            self.book,
            clock=lambda: self.now,
            enqueue=self.enqueued.append,
            in_turn=self.in_turn.append,
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

            async def post(body: Any, token: str | None = GOOD) -> tuple[int, str]:
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


OF_TRAIN = {"stage": "again", "attempt": 1}


def test_a_report_of_worker_0_is_taken_and_its_token_reviewed_once_in_a_while() -> None:
    bench = Bench()

    async def check(post: Any) -> None:
        for step in (1, 2, 2):
            assert (await post(report(step)))[0] == 200
        assert bench.api.reviews == 1
        # The same again is no reason to look at the job.
        assert (bench.enqueued, bench.in_turn) == ([Key("ns", "j")], [Key("ns", "j")])
        assert bench.book.of(Key("ns", "j"), "job-1")["train", 2].progress.step == 2
        assert bench.book.of(Key("ns", "j"), "another") == {}
        bench.now += 121
        assert (await post(report(3)))[0] == 200
        assert bench.api.reviews == 2

    bench.run(check)


@pytest.mark.parametrize(
    ("body", "token", "status", "said"),
    [
        (report(), token(signature="forged"), 401, "not valid"),
        (report(), token(signature="elsewhere"), 401, "audience"),
        (report(), token(signature="of-nobody"), 403, "not bound to the pod"),
        (report(), token(signature="of-another"), 403, "not bound to the pod"),
        (report(), token(signature="of-a-person"), 403, "not bound to the pod"),
    ],
)
def test_a_token_is_believed_only_when_the_api_server_says_so(
    body: Any, token: str, status: int, said: str
) -> None:
    bench = Bench()

    async def check(post: Any) -> None:
        answered, text = await post(body, token)
        assert (answered, bench.api.reviews) == (status, 1)
        assert said in json.loads(text)["error"]
        assert not bench.enqueued

    bench.run(check)


@pytest.mark.parametrize(
    ("body", "token", "status", "said"),
    [
        (report(), None, 401, "bearer token"),
        (report(), "nonsense", 401, "not a service account's"),
        (report(), "a.bnVsbA.c", 401, "not a service account's"),  # null
        (report(), f"a.{'W1tb' * 1500}.c", 401, "not a service account's"),
        (report(), token("other/p0/pod-1"), 403, "namespace other"),
        (report(), token("ns/p0/pod-9"), 403, "of no attempt"),
        (report(), token("ns/stranger/pod-1"), 403, "of no attempt"),
        (report(), token("ns/p1/pod-2"), 403, "not worker 0"),
        (report(), token("ns/old/pod-3"), 403, "another attempt"),
        (report(), token("ns/nobodys/pod-4"), 403, "not made for the attempt"),
        (report(), token("ns/anothers/pod-5"), 403, "not made for the attempt"),
        (report(**OF_TRAIN), token("ns/train1/pod-7"), 403, "not worker 0"),
        (report(**OF_TRAIN), token("ns/forged/pod-8"), 403, "not made for the attempt"),
        (report(**OF_TRAIN), token("ns/older/pod-9"), 403, "not made for the attempt"),
        # It is believed; the attempt is not in the job's status.
        (report(**OF_TRAIN), token("ns/trains/pod-6"), 409, "attempt 1 of again is over"),
        (report(attempt=1), GOOD, 403, "another attempt"),
        (report(stage="test"), GOOD, 403, "another attempt"),
        (report(attempt=1), token("ns/old/pod-3"), 409, "attempt 1 of train is over"),
        (report(uid="job-0"), GOOD, 403, "another attempt"),
        (report(attempt=0), GOOD, 400, "attempt: "),
        (report(progress={"step": "much"}), GOOD, 400, "progress.step: "),
        (report(progress={"step": 10**30}), GOOD, 400, "progress.step: is larger than"),
        (report(progress={"checkpointStep": -(10**30)}), GOOD, 400, "progress.checkpoint_step: "),
        (report(progress={"phase": "x" * 30_000}), GOOD, 400, "progress.phase: is longer than"),
        (report(progress={"checkpoint": "x" * 30_000}), GOOD, 400, "progress.checkpoint: "),
        (b"{", GOOD, 400, "not JSON"),
        (b"[" * 60_000, GOOD, 400, "not JSON"),
        (b"x" * (LARGEST + 1), GOOD, 413, "bytes at most"),
    ],
)
def test_a_report_is_refused_with_the_reason_before_the_api_server_is_asked(
    body: Any, token: str, status: int, said: str
) -> None:
    bench = Bench()

    async def check(post: Any) -> None:
        answered, text = await post(body, token)
        assert answered == status, text
        assert said in json.loads(text)["error"]
        assert not bench.enqueued
        assert bench.api.reviews == 0

    bench.run(check)


def test_sentences_for_people_are_cut_and_cost_no_report() -> None:
    bench = Bench()

    async def check(post: Any) -> None:
        told = {"step": 1, "loss": 1e300, "unusable": ["x" * 3_000, *map(str, range(99))]}
        assert (await post(report(progress=told)))[0] == 200
        kept = bench.book.of(Key("ns", "j"), "job-1")["train", 2].progress
        assert (len(kept.unusable), len(kept.unusable[0])) == (16, 2048)

    bench.run(check)


def test_reports_of_an_ended_attempt_are_refused() -> None:
    bench = Bench(ended="2026-01-01T00:00:00Z")

    async def check(post: Any) -> None:
        assert (await post(report()))[0] == 409

    bench.run(check)


def test_a_refused_token_is_not_asked_about_again_for_a_while() -> None:
    bench = Bench()

    async def check(post: Any) -> None:
        for _ in range(50):
            assert (await post(report(), token(signature="forged")))[0] == 401
        assert bench.api.reviews == 1
        bench.now += REFUSED_SECONDS + 1
        assert (await post(report(), token(signature="forged")))[0] == 401
        assert bench.api.reviews == 2

    bench.run(check)


def test_an_outage_is_no_refusal() -> None:
    bench = Bench()

    async def check(post: Any) -> None:
        bench.api.down = True
        assert (await post(report()))[0] == 503
        bench.api.down = False
        assert (await post(report()))[0] == 200

    bench.run(check)


def test_tokens_of_one_pod_cost_few_reviews_however_many_there_are() -> None:
    bench = Bench()

    async def check(post: Any) -> None:
        assert (await post(report()))[0] == 200
        answers = [await post(report(), token(signature=f"forged-{n}")) for n in range(200)]
        assert {status for status, _ in answers} == {401, 429}
        assert bench.api.reviews < 10
        # The pod itself, whose token is known, is still heard.
        assert (await post(report(2)))[0] == 200
        bench.now += 60
        assert (await post(report(), token(signature="forged-again")))[0] == 401

    bench.run(check)


def test_reviews_have_a_limit_over_all_pods() -> None:
    api = Api()
    checker = TokenChecker(cast(Client, api), AUDIENCE, lambda: 0.0)

    async def main() -> None:
        refused = 0
        for number in range(REVIEWS_AT_ONCE + 20):
            name = f"ns/p/uid-{number}"
            try:
                await checker.confirm(token(name), claimed(token(name)))
            except RefusedError as error:
                refused += error.status == 429
        assert (api.reviews, refused) == (REVIEWS_AT_ONCE, 20)

    asyncio.run(main())


def test_a_replica_that_does_not_lead_passes_on_what_a_pod_may_have_said() -> None:
    bench = Bench()
    bench.leads = False

    async def check(post: Any) -> None:
        assert (await post(report(), "nonsense"))[0] == 401
        assert (await post(b"anything"))[0] == 400
        assert (await post(report(), token("ns/stranger/pod-1")))[0] == 403
        assert bench.forwarded == []
        assert await post(report()) == (409, '{"error": "from the leader"}')
        assert bench.forwarded == [(json.dumps(report()).encode(), f"Bearer {GOOD}")]
        assert bench.api.reviews == 0

    bench.run(check)


def test_a_report_is_as_old_as_the_last_step_forward() -> None:
    book, key = ProgressBook(), Key("ns", "j")
    assert book.take(Posted.model_validate(report(5)), 10.0) is News.NOW
    assert book.take(Posted.model_validate(report(5)), 20.0) is News.NONE
    assert book.of(key, "job-1")["train", 2].received == 10.0
    faster = report(progress={"step": 5, "total": 10, "samplesPerSecond": 7.0})
    assert book.take(Posted.model_validate(faster), 30.0) is News.IN_TURN
    assert book.of(key, "job-1")["train", 2].received == 10.0
    assert book.take(Posted.model_validate(report(6)), 40.0) is News.IN_TURN
    assert book.of(key, "job-1")["train", 2].received == 40.0
    book.take(Posted.model_validate(report(1, attempt=3)), 50.0)
    assert list(book.of(key, "job-1")) == [("train", 3)]
    book.forget(key)
    assert book.of(key, "job-1") == {}
