"""Which backends are admitted: those that the cluster serves and the settings allow."""

from __future__ import annotations

from typing import Any

import pytest

from florence_operator.admission.validation import validate
from florence_operator.settings import OperatorConfiguration
from tests.operator.admission.test_validation import SETTINGS, put, small

ONLY = ("PyTorchJob",)


def of(backend: str, **policy: Any) -> dict[str, Any]:
    return put(small(), "spec.runPolicy", {"backend": backend, **policy})


def fixed(kind: str) -> OperatorConfiguration:
    return SETTINGS.model_copy(update={"backend": kind})


def test_a_kind_that_is_not_served_is_refused_with_its_field() -> None:
    request = {"operation": "CREATE", "object": of("TrainJob")}
    answer = validate(request, SETTINGS, served=ONLY)
    assert (answer.allowed, answer.code) == (False, 422)
    assert answer.message.startswith("spec.runPolicy.backend: the cluster does not serve TrainJobs")
    assert "it serves PyTorchJob" in answer.message
    for backend, served in (("auto", ONLY), ("PyTorchJob", ONLY), ("TrainJob", ("TrainJob",))):
        assert validate({**request, "object": of(backend)}, SETTINGS, served=served).allowed


def test_the_settings_may_fix_the_kind() -> None:
    for backend, allowed in (("auto", True), ("TrainJob", True), ("PyTorchJob", False)):
        answer = validate({"operation": "CREATE", "object": of(backend)}, fixed("TrainJob"))
        assert answer.allowed is allowed, answer.message
        assert allowed or answer.message.startswith("spec.runPolicy.backend: ")
    topology = of("auto", gang="volcano", topology={"preferred": "1"})
    answer = validate({"operation": "CREATE", "object": topology}, fixed("PyTorchJob"))
    assert answer.message.startswith("spec.runPolicy.topology: ")


def test_a_job_that_was_taken_before_the_kind_went_away_can_be_suspended() -> None:
    old, new = of("TrainJob"), of("TrainJob", suspend=True)
    request = {"operation": "UPDATE", "object": new, "oldObject": old}
    assert validate(request, SETTINGS, served=ONLY).allowed
    assert validate(request, fixed("PyTorchJob")).allowed


@pytest.mark.parametrize("backend", ["auto", "PyTorchJob", "TrainJob"])
def test_the_kind_may_be_changed_at_any_time(backend: str) -> None:
    old = of("PyTorchJob")
    attempt = {"number": 1, "jobRef": {"kind": "PyTorchJob", "name": "c"}}
    old["status"] = {"stages": [{"name": "one", "state": "Running", "attempts": [attempt]}]}
    new = {**of(backend), "status": old["status"]}
    assert validate({"operation": "UPDATE", "object": new, "oldObject": old}, SETTINGS).allowed


@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [
        (None, "kueue.x-k8s.io/multikueue", False),
        ("kueue.x-k8s.io/multikueue", None, False),
        ("kueue.x-k8s.io/multikueue", "kueue.x-k8s.io/multikueue", True),
    ],
)
def test_who_manages_a_job_never_changes(old: str | None, new: str | None, allowed: bool) -> None:
    def managed(by: str | None, image: str) -> dict[str, Any]:
        job = put(small(), "spec.image", image)
        return put(job, "spec.managedBy", by) if by else job

    request = {
        "operation": "UPDATE",
        "oldObject": managed(old, "a:1"),
        "object": managed(new, "a:2"),
    }
    answer = validate(request, SETTINGS)
    assert answer.allowed is allowed
    assert allowed or answer.message.startswith("spec.managedBy: ")
