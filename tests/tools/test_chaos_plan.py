"""The faults of a soak: the same for the same seed, one at a time, all kinds in an hour."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.e2e.chaos.plan import HOLD_SECONDS, OF_THE_MACHINE, WEIGHTS, Fault, plan
from tests.e2e.chaos.report import Report

SEEDS = st.integers(0, 2**32)


@given(SEEDS, st.floats(0, 7200))
def test_a_seed_is_a_soak(seed: int, seconds: float) -> None:
    faults = plan(seed, seconds, list(WEIGHTS))
    assert faults == plan(seed, seconds, list(reversed(WEIGHTS)))
    for before, after in pairwise(faults):
        assert before.at + before.hold < after.at
    assert all(0 < fault.at < seconds and 0 <= fault.choice < 1 for fault in faults)
    assert all(fault.hold == HOLD_SECONDS.get(fault.kind, 0) for fault in faults)
    assert all((fault.how in ("kill", "cut")) == (fault.kind == "node") for fault in faults)


@given(SEEDS)
def test_an_hour_brings_much_of_everything(seed: int) -> None:
    faults = plan(seed, 3600, list(WEIGHTS))
    assert len(faults) > 35
    assert len({fault.kind for fault in faults}) > len(WEIGHTS) // 2


@given(SEEDS)
def test_only_what_can_be_brought_about_is_planned(seed: int) -> None:
    kinds = [kind for kind in WEIGHTS if kind not in OF_THE_MACHINE]
    assert {fault.kind for fault in plan(seed, 3600, kinds)} <= set(kinds)


def test_a_report_names_what_went_wrong() -> None:
    report = Report(seed=7, seconds=60)
    report.faults.append((Fault(at=12, kind="pod", hold=0, choice=0.5), "soak-0-mixed-worker-1"))
    report.jobs["soak-0"] = {
        "phase": "Succeeded",
        "attempts": 3,
        "causes": ["NodeLost", "NodeLost"],
        "goodput": "71%",
        "same": True,
    }
    assert "every job ended with the undisturbed one's weights" in report.text()
    assert "3 attempts (2 NodeLost), goodput 71%, same weights" in report.text()
    report.problems.append("soak-1: left over: pod/x")
    assert "seed 7, 60 s, 1 faults: 1 pod" in report.text()
    assert report.text().endswith("soak-1: left over: pod/x\n")
