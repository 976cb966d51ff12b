"""Whether stages fit their GPUs, and how long admission may think about it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from florence_operator.admission.validation import validate
from tests.operator.admission.test_validation import SAMPLES, SETTINGS, create, put, small


def test_memory_that_cannot_fit_is_refused_with_what_would() -> None:
    job = put(SAMPLES["florence-h"], "spec.stages.2.pretrain.activationCheckpointing", "none")
    message = create(job).message
    assert message.startswith("spec.stages[2].pretrain: needs ")
    assert "A100-40GB, which has 40.0 GB" in message
    assert "activationCheckpointing: " in message


def test_memory_on_an_unknown_gpu_is_a_warning() -> None:
    job = put(small(), "spec.stages.0.resources.gpusPerWorker", 1)
    answer = create(job)
    assert answer.allowed
    assert answer.warnings[0].startswith("spec.stages[0].pretrain: its memory is not checked")
    job = put(job, "spec.nodePool.selector", {"nvidia.com/gpu.product": "Abacus"})
    assert "Abacus" in create(job).warnings[0]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.model.image.depths", [2**40] * 4),
        ("spec.model.image.depths", [2, 2, 250, 2]),
        ("spec.model.text.layers", 250),
        ("spec.stages.0.pretrain.batchSize", 2**50),
        ("spec.stages.0.pretrain.batchSize", 98_280),  # 128 divisors: as many ways to split it
    ],
)
def test_what_takes_the_planner_long_is_not_planned(path: str, value: Any) -> None:
    job = put(small(), "spec.stages.0.resources.gpusPerWorker", 1)
    job = put(job, "spec.nodePool.selector", {"nvidia.com/gpu.product": "A100-40GB"})
    answer = create(put(job, path, value))
    assert answer.allowed
    assert any("too large" in line for line in answer.warnings)


def crowded(stages: int = 32) -> dict[str, Any]:
    """A job with as many stages as there may be, each to be planned."""
    job = put(small(), "spec.nodePool.selector", {"nvidia.com/gpu.product": "A100-40GB"})
    stage = put(job, "spec.stages.0.resources.gpusPerWorker", 1)["spec"]["stages"][0]
    return put(job, "spec.stages", [{**stage, "name": f"s{i}"} for i in range(stages)])


def ticking(step: float) -> Callable[[], float]:
    """A clock that goes on by so many seconds whenever it is asked."""
    times = count(0, step)
    return lambda: next(times)


def test_planning_has_a_time_and_what_is_left_is_a_warning() -> None:
    """The API server waits for some seconds; it may not be made to wait by a long list."""
    answer = validate({"operation": "CREATE", "object": crowded()}, SETTINGS, clock=ticking(0.1))
    assert answer.allowed
    late = [line for line in answer.warnings if "took too long" in line]
    assert 15 < len(late) < 32
    assert late[-1].startswith("spec.stages[31].pretrain: its memory is not checked: ")


def test_a_change_is_not_refused_for_what_there_was_no_time_to_find_before() -> None:
    old = put(crowded(), "spec.stages.31.pretrain.resolution", 2048)
    old = put(old, "spec.stages.31.pretrain.batchSize", 4096)
    new = put(old, "spec.runPolicy.suspend", True)
    assert not create(old).allowed
    request = {"operation": "UPDATE", "object": new, "oldObject": old}
    for step in (0.0, 0.01, 0.03, 0.05, 0.1):
        assert validate(request, SETTINGS, clock=ticking(step)).allowed
