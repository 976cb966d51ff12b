"""Whoever ran out of memory is told what would have fitted. Real failures of real allocators."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np
import pytest
import torch

from florence_jobs import out_of_memory
from florence_jobs.out_of_memory import (
    Memory,
    advice,
    advice_when_killed,
    is_out_of_memory,
)
from florence_operator.api.stage import StagePlan

GPU = Memory(capacity=80 * 10**9, device="NVIDIA H100", cuda=True)
MACHINE = Memory(capacity=16 * 10**9, device="this machine", cuda=False)


def plan(kind: str = "pretrain", **config: Any) -> StagePlan:
    pretrain = {"data": "/shards", "batchSize": 4096, "steps": 1, "engine": "torch"}
    return StagePlan.model_validate(
        {
            "job": "j",
            "namespace": "n",
            "uid": "u",
            "stage": "s",
            "attempt": 1,
            "kind": kind,
            "config": {**(pretrain if kind == "pretrain" else {}), **config},
            "model": {"preset": "coswin-t"},
            "output": "/artifacts",
        }
    )


def raised(act: Any) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whichever it is is the question
        act()
    return caught.value


@pytest.mark.parametrize(
    "act",
    [
        lambda: torch.empty(2**58),
        lambda: torch.empty(2**40, 2**40),
        lambda: np.empty(2**58, np.uint8),
        lambda: np.empty((2**40, 2**40), np.uint8),
        lambda: bytearray(2**62),
        lambda: bytearray(2**70),
    ],
)
def test_every_allocator_is_understood(act: Any) -> None:
    assert is_out_of_memory(raised(act))


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("shapes do not match"), False),
        (ValueError("bug"), False),
        (KeyError("out of memory"), False),
    ],
)
def test_other_failures_are_not_taken_for_it(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) is is_memory


def test_settings_that_fit_are_named_with_what_they_need() -> None:
    text = advice(plan(), GPU, processes=2)
    assert text.startswith("2048 samples a rank at resolution 224 need about ")
    assert "NVIDIA H100 has 80.0 GB; activationCheckpointing: " in text
    assert "for the same result" in text


def test_what_fits_nowhere_is_told() -> None:
    text = advice(plan(resolution=10**6), MACHINE, processes=1)
    assert "no chunks, checkpointing or ZeRO stage would do" in text
    assert "smaller batchSize, resolution" in text


def test_an_estimate_that_fits_says_that_something_else_holds_memory_and_gets_less() -> None:
    text = advice(plan(batchSize=64), GPU, processes=1)
    assert "something else may be using" in text
    assert "activationCheckpointing: selective" in text


def test_an_evaluation_is_told_what_it_can_lower() -> None:
    chosen = [{"name": "digits", "data": "builtin:digits/test", "prompts": "digits"}]
    text = advice(plan("evaluate", zeroShot=chosen, batchSize=512), MACHINE, processes=1)
    assert text.startswith("512 images at once are too many for this machine (16.0 GB)")


def test_memory_is_what_the_cgroup_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out_of_memory, "memory_texts", lambda *_: ["8000000\n", "max\n"])
    assert out_of_memory.host_memory(2).capacity == 4_000_000


def test_a_stage_that_the_kernel_ends_on_a_machine_with_gpus_lacks_memory_of_the_host() -> None:
    text = advice_when_killed(plan(), MACHINE, processes=2, gpus=True)
    assert text.startswith("the kernel ended a process of it because memory ran out: this machine")
    assert "a rank at resolution" not in text
    assert "each of loader.workers (2 a rank) holds up to 1.1 GB of shards" in text
    chosen = [{"name": "digits", "data": "builtin:digits/test", "prompts": "digits"}]
    evaluation = plan("evaluate", zeroShot=chosen)
    assert "lower batchSize" in advice_when_killed(evaluation, MACHINE, processes=1, gpus=True)
