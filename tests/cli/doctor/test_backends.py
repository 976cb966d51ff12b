"""What doctor makes of the kinds of children that a cluster takes."""

from __future__ import annotations

from typing import Any

import pytest

from florencectl.doctor.backends import backends
from florencectl.levels import Level
from tests.cli.doctor.test_checks import deployment

BOTH = ("PyTorchJob", "TrainJob")
RUNNING = [
    deployment(name)
    for name in (
        "training-operator",
        "kubeflow-trainer-controller-manager",
        "jobset-controller-manager",
    )
]


def levels(*arguments: Any, **more: Any) -> dict[str, Level]:
    return {check.name: check.level for check in backends(*arguments, **more)}


def test_what_runs_the_kinds_that_there_are_has_to_run_itself() -> None:
    assert levels(BOTH, RUNNING) == dict.fromkeys(
        ("Training Operator", "Kubeflow Trainer", "JobSet"), Level.OK
    )
    assert levels(("PyTorchJob",), RUNNING) == {"Training Operator": Level.OK}
    assert set(levels(("TrainJob",), RUNNING)) == {"Kubeflow Trainer", "JobSet"}
    assert set(levels(BOTH, []).values()) == {Level.WARN}
    assert set(levels(BOTH, None).values()) == {Level.WARN}
    stopped = [deployment("jobset-controller-manager", 0), *RUNNING[:2]]
    assert levels(BOTH, stopped)["JobSet"] is Level.FAIL


def test_trainjobs_without_jobsets_get_no_pods() -> None:
    assert levels(BOTH, RUNNING, jobsets=False)["JobSet CRD"] is Level.FAIL
    assert "JobSet CRD" not in levels(("PyTorchJob",), RUNNING, jobsets=False)


@pytest.mark.parametrize(
    ("served", "wanted", "words"),
    [
        ((), "auto", "neither PyTorchJobs nor TrainJobs"),
        (("PyTorchJob",), "TrainJob", "does not serve TrainJobs"),
        (("TrainJob",), "PyTorchJob", "does not serve PyTorchJobs"),
    ],
)
def test_a_kind_that_is_not_served_fails_with_what_to_install(
    served: tuple[str, ...], wanted: str, words: str
) -> None:
    (check,) = backends(served, RUNNING, wanted)
    assert (check.level, check.name) == (Level.FAIL, "backend")
    assert words in check.message
    assert "install" in check.remedy
