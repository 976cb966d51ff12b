"""DeepSpeed at every ZeRO stage against the torch engine, on two processes.

Importing DeepSpeed takes many seconds, so one gang runs every case and the tests look at what it
brought home.
"""

from __future__ import annotations

import importlib.util
import logging
import math
from typing import Any

import pytest
import torch

from florence.config import EngineKind, Loss, Precision, Pretrain
from florence.distributed.engine import Engine, StepResult
from florence.distributed.engines import make_engine
from florence.distributed.objective import ContrastiveObjective
from florence.distributed.world import World, join, leave
from florence.models.two_tower import build_model
from tests.florence.distributed.tiny import (
    MemoryReader,
    TinyTwoTower,
    pairs,
    portable,
    relative_difference,
    small_coswin,
    tiny_batch,
    tiny_settings,
)
from tests.gang import run_gang

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
    ),
]

STAGES = (0, 1, 2, 3)
LR = 0.01
Portable = list[tuple[str, tuple[int, ...], int, Any]]


def engine(kind: str, settings: Pretrain, world: World, **model: Any) -> Engine:
    objective = ContrastiveObjective(settings.loss)
    return make_engine(EngineKind(kind), TinyTwoTower(**model), settings, objective, world)


def steps(engine: Engine, numbers: range, world: World) -> list[StepResult]:
    return [engine.step(tiny_batch(n).rows_of(world.rank, world.size), lr=LR) for n in numbers]


def state_of(engine: Engine) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in engine.model_state().items()}


def _stage(stage: int, world: World, start: Portable, counters: dict[str, float]) -> dict[str, Any]:
    """Everything the tests want to know of one stage."""
    out: dict[str, Any] = {}
    for chunks in (1, 3):
        one = engine(
            "deepspeed", tiny_settings(zero_stage=stage, gradient_cache_chunks=chunks), world
        )
        out["results", chunks] = steps(one, range(5), world)
        out["state", chunks] = state_of(one)

    before = portable(one.fragments())
    batch = tiny_batch(5).rows_of(world.rank, world.size)
    if world.rank == 1:
        batch.images[0, 0, 0, 0] = float("inf")
    out["bad"] = one.step(batch, lr=LR)
    after = portable(one.fragments())
    out["unchanged"] = all((a[3] == b[3]).all() for a, b in zip(before, after, strict=True))
    out["fragments"], out["counters"] = after, one.counters()
    steps(one, range(6, 8), world)
    out["continued"] = state_of(one)

    restored = engine("deepspeed", tiny_settings(zero_stage=stage), world, seed=99)
    restored.restore(MemoryReader(start))
    restored.restore_counters(counters)
    out["restored"] = state_of(restored)
    steps(restored, range(3, 6), world)
    out["restored and continued"] = state_of(restored)

    clamped = engine("deepspeed", tiny_settings(zero_stage=stage, loss=Loss(max_scale=10.0)), world)
    out["scales"] = [result.scale for result in steps(clamped, range(3), world)]
    out["clamped"] = state_of(clamped)["logit_scale"]

    half = engine("deepspeed", tiny_settings(zero_stage=stage, precision=Precision.FP16), world)
    out["fp16"] = steps(half, range(16), world)
    out["fp16 counters"], out["fp16 state"] = half.counters(), state_of(half)
    return out


def _gang(start: Portable, counters: dict[str, float]) -> dict[Any, Any]:
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    world = join(60.0)
    out: dict[Any, Any] = {}
    for stage in STAGES:
        out[stage] = _stage(stage, world, start, counters)
        logging.getLogger("DeepSpeed").addHandler(handler)
    out["messages"] = messages
    settings = tiny_settings(batch_size=8, gradient_cache_chunks=2, zero_stage=3)
    model = build_model(small_coswin(), seed=0, drop_path=0.0)
    real = make_engine(
        EngineKind.DEEPSPEED, model, settings, ContrastiveObjective(settings.loss), world
    )
    batch = pairs(8).rows_of(world.rank, world.size)
    out["coswin"] = [real.step(batch, lr=1e-3).loss for _ in range(3)]
    return out


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """One torch process: the states that every stage is compared with."""
    out: dict[str, Any] = {}
    one = engine("torch", tiny_settings(), World())
    out["results"] = steps(one, range(3), World())
    out["fragments"], out["counters"] = portable(one.fragments()), one.counters()
    out["after 3"] = state_of(one)
    out["results"] += steps(one, range(3, 5), World())
    out["after 5"] = state_of(one)
    steps(one, range(5, 6), World())
    out["after 6"] = state_of(one)
    return out


@pytest.fixture(scope="module")
def ranks(alone: dict[str, Any]) -> list[dict[Any, Any]]:
    return run_gang(_gang, 2, alone["fragments"], alone["counters"], timeout=500)


@pytest.fixture(params=STAGES)
def both(request: pytest.FixtureRequest, ranks: list[dict[Any, Any]]) -> list[dict[Any, Any]]:
    """What the two ranks saw at one stage."""
    return [rank[request.param] for rank in ranks]


@pytest.mark.parametrize("chunks", [1, 3])
def test_same_parameters_as_one_torch_process(
    both: list[dict[Any, Any]], alone: dict[str, Any], chunks: int
) -> None:
    for out in both:
        assert relative_difference(out["state", chunks], alone["after 5"]) < 1e-5
        for result, expected in zip(out["results", chunks], alone["results"], strict=True):
            assert result.loss == pytest.approx(expected.loss, rel=1e-5)
            assert result.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)
            assert result.scale == pytest.approx(expected.scale, rel=1e-5)


def test_an_infinite_pixel_on_one_rank_skips_the_step_on_all(both: list[dict[Any, Any]]) -> None:
    for out in both:
        assert out["bad"].skipped
        assert not math.isfinite(out["bad"].grad_norm)
        assert out["unchanged"]
        assert out["counters"]["optimizer_steps"] == 5


def test_two_ranks_resume_as_one_torch_process(both: list[dict[Any, Any]]) -> None:
    restored = engine("torch", tiny_settings(), World(), seed=99)
    restored.restore(MemoryReader(both[0]["fragments"] + both[1]["fragments"]))
    restored.restore_counters(both[0]["counters"])
    steps(restored, range(6, 8), World())
    assert relative_difference(both[1]["continued"], restored.model_state()) < 1e-5


def test_one_torch_process_resumes_as_two_ranks(
    both: list[dict[Any, Any]], alone: dict[str, Any]
) -> None:
    for out in both:
        assert relative_difference(out["restored"], alone["after 3"]) == 0
        assert relative_difference(out["restored and continued"], alone["after 6"]) < 1e-5


def test_the_scale_is_clamped(both: list[dict[Any, Any]]) -> None:
    for out in both:
        first, *later = out["scales"]
        assert first == pytest.approx(math.exp(2.659), rel=1e-6)
        assert max(later) <= 10.0 + 1e-5
        assert float(out["clamped"][0]) <= math.log(10.0) + 1e-6


def test_fp16_finds_its_loss_scale_on_all_ranks_at_once(both: list[dict[Any, Any]]) -> None:
    one, other = both
    assert one["fp16 counters"] == other["fp16 counters"]
    skipped = [result.skipped for result in one["fp16"]]
    assert skipped == [result.skipped for result in other["fp16"]]
    assert 0 < sum(skipped) < 16
    taken = 16 - sum(skipped)
    assert one["fp16 counters"]["optimizer_steps"] == taken
    assert one["fp16 counters"]["loss_scale"] == 2.0 ** (16 - sum(skipped))
    for out in both:
        assert all(bool(torch.as_tensor(t).isfinite().all()) for t in out["fp16 state"].values())


def test_a_real_model_learns_a_batch_under_zero_3(ranks: list[dict[Any, Any]]) -> None:
    for out in ranks:
        losses = out["coswin"]
        assert losses[2] < losses[0]


def test_deepspeed_reports_skipped_steps_and_nothing_else(ranks: list[dict[Any, Any]]) -> None:
    assert [text for text in ranks[0]["messages"] if "OVERFLOW" not in text] == []


def _alone_with_deepspeed() -> tuple[dict[str, Any], str]:
    leave()  # a process started without torchrun has no process group
    one = engine("deepspeed", tiny_settings(zero_stage=2), World())
    steps(one, range(5), World())
    return state_of(one), one.name


def test_one_process_needs_no_launcher(alone: dict[str, Any]) -> None:
    (result,) = run_gang(_alone_with_deepspeed, 1)
    assert result[1] == "deepspeed"
    assert relative_difference(result[0], alone["after 5"]) < 1e-5
