"""A soak: jobs train while random faults come, and every one ends as if nothing had happened.

    make e2e-chaos SECONDS=3600 SEED=1

FLORENCE_CHAOS_REPORT names a file for the report, which is also printed. Faults of the machine
(nodes, API server, etcd, DNS, storage) need FLORENCE_E2E_MACHINE.
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import pytest

from tests.e2e import jobs
from tests.e2e.chaos.faults import bring_about, phase_of
from tests.e2e.chaos.plan import OF_THE_MACHINE, WEIGHTS, plan
from tests.e2e.chaos.report import Report
from tests.e2e.kube import KubectlError, Machine, eventually
from tests.e2e.weights import digest_of

AT_ONCE = 2
SECONDS = float(os.environ.get("FLORENCE_CHAOS_SECONDS", "0"))
SEED = int(os.environ.get("FLORENCE_CHAOS_SEED", "1"))
LAST_PATIENCE = 900.0
"""Seconds in which jobs have to end once no more faults come."""


def _submit(number: int) -> str:
    """A job with more retries than a soak has faults."""
    retries = {"infrastructure": 500, "application": 500}
    job = jobs.small_job(f"soak-{number}", stallTimeout="2m", retries=retries)
    taken = eventually(
        f"soak-{number} is taken", lambda: _taken(job), timeout=LAST_PATIENCE, pause=2
    )
    return str(taken)


def _taken(job: jobs.Document) -> str | None:
    try:
        return jobs.submit(job)
    except KubectlError:
        return None


@pytest.mark.skipif(not SECONDS, reason="make e2e-chaos asks for it: FLORENCE_CHAOS_SECONDS")
@pytest.mark.timeout(SECONDS + 3 * LAST_PATIENCE)
def test_whatever_goes_wrong_every_job_ends_with_the_same_weights(
    undisturbed: str,
) -> None:
    machine = Machine.found()
    kinds = [kind for kind in WEIGHTS if machine or kind not in OF_THE_MACHINE]
    report = Report(seed=SEED, seconds=SECONDS)
    numbers = itertools.count()
    going = [_submit(next(numbers)) for _ in range(AT_ONCE)]
    began = time.monotonic()
    try:
        for fault in plan(SEED, SECONDS, kinds):
            time.sleep(max(0.0, began + fault.at - time.monotonic()))
            report.faults.append((fault, bring_about(fault, machine)))
            for name in [n for n in going if phase_of(n) in ("Succeeded", "Failed")]:
                going.remove(name)
                _judge(name, report, undisturbed)
                going.append(_submit(next(numbers)))
        for name in going:
            eventually(
                f"{name} ends",
                lambda name=name: phase_of(name) in ("Succeeded", "Failed"),
                timeout=LAST_PATIENCE,
                pause=2,
            )
            _judge(name, report, undisturbed)
    finally:
        text = report.text()
        print(text)
        if path := os.environ.get("FLORENCE_CHAOS_REPORT"):
            Path(path).write_text(text, encoding="utf-8")
    assert report.faults
    assert not report.problems, report.text()


def _judge(name: str, report: Report, undisturbed: str) -> None:
    """Note how a job ended, see that nothing is left of it, and delete it."""
    status = jobs.status(name)
    attempts = jobs.attempts(name)
    succeeded = status["phase"] == "Succeeded"
    same = succeeded and digest_of(name) == undisturbed
    report.jobs[name] = {
        "phase": status["phase"],
        "attempts": attempts[-1]["number"] if attempts else 0,
        "causes": [a["cause"] for a in attempts if "cause" in a],
        "goodput": status["summary"].get("goodput"),
        "same": same,
    }
    if not same:
        said = status["stages"][0].get("message")
        report.problems.append(f"{name}: {status['phase']}, not the same weights: {said}")
    try:
        jobs.expect_nothing_left(name, timeout=300)
        jobs.delete(name)
    except AssertionError:
        report.problems.append(f"{name}: left over: {', '.join(jobs.leftovers(name))}")
