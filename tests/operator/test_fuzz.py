"""Random and hostile FlorenceJobs: nothing crashes, and every refusal names a field."""

from __future__ import annotations

import copy
import json
import random
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from florence_operator.admission.validation import validate
from florence_operator.api.manifest import from_cluster
from florence_operator.kube.client import FLORENCE_JOBS
from florence_operator.observe.observation import Observation
from florence_operator.reconcile.decide import decide
from florence_operator.runtime.review import AdmissionAnswer, answer_review
from florence_operator.runtime.store import Key
from florence_operator.settings import OperatorConfiguration
from tests.operator.reconcile.test_reconciler import Bench, run, single

ROOT = Path(__file__).parents[2]
SAMPLES = [yaml.safe_load(path.read_text()) for path in sorted(ROOT.glob("jobs/samples/*.yaml"))]
SETTINGS = OperatorConfiguration.model_validate({"defaults": {"image": "florence-jobs:0.1.0"}})
FIELD = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9_.-]*(\[[^\n]*\])*[^ ]*: .", re.DOTALL)

WORDS = [
    *("", " ", "a", "A" * 5_000, "..", "../../etc/passwd", "/", "//", "s3://", "s3://a/b", "\0"),
    *("file:///etc", "builtin:", "http://u:p@h", "http://[", "http://h:99999", "{{ .Values.x }}"),
    *("ünïcödé", "\ud800", "💥" * 50, "$(id)", "`id`", "'; DROP TABLE", "10m", "-1s", "1e9d"),
    *("99999999999999999999d", "16Gi", "1e400", "NaN", "null", "florence.dev/job", "PET_RANK"),
    *("nvidia.com/gpu.product", "NVIDIA-A100-SXM4-40GB", "pretrain", "evaluate", "coswin-h"),
]
NUMBERS = [
    0,
    -1,
    1,
    2,
    3,
    7,
    0.5,
    1e-300,
    1e300,
    2**31,
    2**63 - 1,
    2**63,
    -(2**63),
    10**30,
    10**400,
]
KEYS = ["name", "spec", "data", "steps", "__proto__", "", "a.b", "nodePool", "stepz", "image", "\n"]


def anything(random: random.Random, depth: int = 0) -> Any:
    """Any JSON, mostly small."""
    kind = random.randrange(8 if depth < 4 else 5)
    if kind == 0:
        return None
    if kind == 1:
        return random.choice((True, False))
    if kind == 2:
        return random.choice(NUMBERS)
    if kind in (3, 4):
        return random.choice(WORDS)
    if kind == 5:
        return [anything(random, depth + 1) for _ in range(random.randrange(4))]
    if kind == 6:
        return {
            random.choice(KEYS): anything(random, depth + 1) for _ in range(random.randrange(4))
        }
    deep: Any = random.choice(WORDS)
    for _ in range(random.choice((3, 70, 400))):
        deep = [deep] if random.random() < 0.5 else {"a": deep}
    return deep


def hostile(random: random.Random) -> Any:
    """A sample in which some things are others, or nothing like a FlorenceJob."""
    if random.random() < 0.05:
        return anything(random)
    job = copy.deepcopy(random.choice(SAMPLES))
    for _ in range(random.choice((1, 1, 2, 5))):
        holder: Any = job
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = random.choice(keys)
            if isinstance(holder[key], dict | list) and random.random() < 0.8:
                holder = holder[key]
                continue
            change = random.randrange(4)
            if change == 0:
                del holder[key]
            elif change == 1 and isinstance(holder, dict):
                holder[random.choice(KEYS)] = anything(random)
            elif change == 2 and isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            else:
                holder[key] = anything(random)
            break
    return job


@pytest.mark.parametrize("seed", range(4))
def test_admission_answers_whatever_it_is_sent(seed: int) -> None:
    source = random.Random(seed)
    slowest = 0.0
    taken = 0
    for _ in range(500):
        new, old = hostile(source), hostile(source)
        request: dict[str, Any] = {"operation": "CREATE", "object": new}
        if source.random() < 0.3:
            request = {"operation": "UPDATE", "object": new, "oldObject": old}
        start = time.process_time()
        answer = validate(request, SETTINGS)
        slowest = max(slowest, time.process_time() - start)
        if answer.allowed:
            taken += 1
            if isinstance(new, dict) and request["operation"] == "CREATE":
                from_cluster({key: value for key, value in new.items() if key != "status"})
            continue
        assert answer.code == 422
        assert len(answer.message) < 20_000
        for problem in answer.problems:
            assert FIELD.match(problem), problem
    assert slowest < 0.5, "seconds of CPU: the API server waits five"
    assert taken  # some are harmless, or nothing is tested but refusals


@pytest.mark.parametrize("seed", range(2))
def test_reviews_are_answered_whatever_they_ask(seed: int) -> None:
    source = random.Random(seed)

    def answered(request: dict[str, Any]) -> AdmissionAnswer:
        answer = validate(request, SETTINGS)
        return AdmissionAnswer(answer.allowed, answer.message, answer.warnings)

    for _ in range(200):
        request = {key: anything(source) for key in ("operation", "object", "oldObject")}
        review = {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {"uid": "u", **request},
        }
        answer = answer_review(json.dumps(review).encode(), answered)
        assert isinstance(answer["response"]["allowed"], bool)
        json.dumps(answer)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_taken_can_be_decided_about(seed: int) -> None:
    """Also what only the schema has seen: a cluster may run without the webhook."""
    source = random.Random(seed)
    decided = 0
    for number in range(800):
        # As an API server, which is written in Go, would pass it on.
        sent = json.dumps(hostile(source), ensure_ascii=False).encode(errors="replace")
        try:
            document = json.loads(sent)
            job = from_cluster(document)
        except (ValidationError, AttributeError):
            continue
        metadata = job.metadata.model_copy(update={"uid": f"{number:08}-0", "generation": 1})
        job = job.model_copy(update={"metadata": metadata, "status": None})
        decision = decide(Observation(job=job, now=1e9), SETTINGS)
        again = job.model_copy(update={"status": decision.status})
        decide(Observation(job=again, now=1e9 + 60), SETTINGS)
        json.dumps(decision.status.wire())
        json.dumps([start.documents for start in decision.starts])
        decided += 1
    assert decided > 20


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_server_holds_can_be_reconciled(seed: int) -> None:
    """Stored past schema and webhook alike: each gets a status, and none stops the others."""
    source = random.Random(seed)
    phases: Counter[str] = Counter()

    async def check(bench: Bench) -> None:
        for number in range(500):
            sent = json.dumps(hostile(source), ensure_ascii=False).encode(errors="replace")
            document = json.loads(sent)
            spec = document.get("spec") if isinstance(document, dict) else document
            name = f"job-{number}"
            metadata = {"name": name, "namespace": "ns", "uid": f"{number:08}-0"}
            kind = {"apiVersion": "florence.dev/v1alpha1", "kind": "FlorenceJob"}
            bench.caches.jobs.put(bench.server.put({**kind, "metadata": metadata, "spec": spec}))
            for _ in range(2):
                await bench.reconciler.reconcile(Key("ns", name))
            stored = bench.server.get(FLORENCE_JOBS, "ns", name)
            assert stored is not None
            phases[stored["status"]["phase"]] += 1

    run(single(), check)
    assert phases["Starting"] > 20
    assert phases["Pending"] > 20
