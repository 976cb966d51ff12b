"""DeepSpeed at every ZeRO stage against the torch engine, on two processes.

Importing DeepSpeed takes many seconds, so one gang runs every case and the tests look at what it
brought home.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import pytest
import torch

from florence.config import ContrastiveLoss, EngineKind, Precision
from florence.distributed.engine import Engine
from florence.distributed.engines import make_engine
from florence.distributed.world import World, join, leave
from florence.losses.contrastive import ContrastiveObjective
from florence.models.two_tower import build_model
from florence.tasks.pretrain.settings import Pretrain
from tests.florence.distributed.tiny import (
    FrozenAndCounting,
    MemoryReader,
    TinyTwoTower,
    Told,
    live_state,
    numpy_of,
    pairs,
    portable,
    relative_difference,
    small_coswin,
    tiny_batch,
    tiny_rules,
    tiny_settings,
    told,
)
from tests.gang import run_gang

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
    ),
]

CASES = {"0": 0, "1": 1, "2": 2, "3": 3, "3, all in shards": 3}
"""ZeRO stages. DeepSpeed keeps parameters as small as these whole unless told otherwise."""
LR = 0.01
Portable = list[tuple[str, tuple[int, ...], int, Any]]


def engine(kind: str, settings: Pretrain, world: World, **model: Any) -> Engine:
    return make_engine(
        EngineKind(kind),
        TinyTwoTower(**model),
        settings,
        ContrastiveObjective(settings.loss),
        world,
        rules=tiny_rules(settings),
    )


def counting_engine(
    kind: str, settings: Pretrain, world: World, **model: Any
) -> tuple[Engine, FrozenAndCounting]:
    """An engine with frozen parameters, scaled rates, bounds and changing buffers; its model."""
    module = FrozenAndCounting(**model)
    objective = ContrastiveObjective(settings.loss)
    one = make_engine(EngineKind(kind), module, settings, objective, world, rules=module.RULES)
    return one, module


def steps(engine: Engine, numbers: range, world: World) -> list[Told]:
    return [
        told(engine.step(tiny_batch(n).rows_of(world.rank, world.size), lr=LR)) for n in numbers
    ]


def state_of(engine: Engine) -> dict[str, Any]:
    return numpy_of(engine.model_state())


def shared_by(world: World, engine: Engine) -> Portable:
    """The fragments of all ranks, on every rank."""
    return [
        fragment
        for each in world.all_gather_object(portable(engine.fragments()))
        for fragment in each
    ]


@contextlib.contextmanager
def all_in_shards() -> Iterator[None]:
    """DeepSpeed cuts up parameters of any size, as it does large ones."""
    from florence.distributed import deepspeed_engine

    original = deepspeed_engine.deepspeed_config

    def changed(settings: Pretrain, size: int) -> dict[str, Any]:
        config = original(settings, size)
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return config

    with mock.patch.object(deepspeed_engine, "deepspeed_config", changed):
        yield


def _stage(stage: int, world: World, start: Portable, counters: dict[str, float]) -> dict[str, Any]:
    """Everything the tests want to know of one stage."""
    out: dict[str, Any] = {}
    for chunks in (1, 3):
        one = engine(
            "deepspeed", tiny_settings(zero_stage=stage, gradient_cache_chunks=chunks), world
        )
        out["results", chunks] = steps(one, range(5), world)
        out["state", chunks] = state_of(one)
        if stage < 3:
            out["live", chunks] = live_state(one.model)

    before = portable(one.fragments())
    batch = tiny_batch(5).rows_of(world.rank, world.size)
    if world.rank == 1:
        batch.images[0, 0, 0, 0] = float("inf")
    out["bad"] = told(one.step(batch, lr=LR))
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

    bounded = tiny_settings(zero_stage=stage, loss=ContrastiveLoss(max_scale=10.0))
    clamped = engine("deepspeed", bounded, world)
    out["scales"] = [r.metrics["logit_scale"] for r in steps(clamped, range(3), world)]
    out["clamped"] = state_of(clamped)

    half = engine("deepspeed", tiny_settings(zero_stage=stage, precision=Precision.FP16), world)
    out["fp16"] = steps(half, range(16), world)
    out["fp16 counters"], out["fp16 state"] = half.counters(), state_of(half)
    return out


def _counting(
    stage: int, world: World, start: Portable, counters: dict[str, float]
) -> tuple[dict[str, Any], Portable]:
    """Frozen parameters, rules and buffers of one stage; what comes next starts from its end."""
    out: dict[str, Any] = {}
    settings = tiny_settings(zero_stage=stage)
    one, model = counting_engine("deepspeed", settings, world)
    out["results"] = steps(one, range(3), world)
    out["fragments"] = portable(one.fragments())
    before = shared_by(world, one)
    batch = tiny_batch(3).rows_of(world.rank, world.size)
    if world.rank == 1:
        batch.images[0, 0, 0, 0] = float("inf")
    out["bad"] = told(one.step(batch, lr=LR))
    out["unchanged"] = all(
        (a[3] == b[3]).all() for a, b in zip(before, shared_by(world, one), strict=True)
    )
    out["results"] += steps(one, range(3, 6), world)
    out["state"] = state_of(one)
    out["buffers"] = numpy_of(dict(model.named_buffers()))

    restored, _ = counting_engine("deepspeed", settings, world, seed=99)
    restored.restore(MemoryReader(start))
    restored.restore_counters(counters)
    out["restored"] = MemoryReader(shared_by(world, restored)).whole()
    steps(restored, range(3, 6), world)
    out["restored and continued"] = state_of(restored)
    out["inference"] = _inference(settings, world)
    return out, before


def _inference(settings: Pretrain, world: World) -> dict[str, Any]:
    """Two engines take the same steps; the model of one is looked at in between."""
    out: dict[str, Any] = {"features": [], "scales": []}
    plain, _ = counting_engine("deepspeed", settings, world)
    watched, model = counting_engine("deepspeed", settings, world)
    held_out = tiny_batch(9)
    for number in range(4):
        steps(plain, range(number, number + 1), world)
        with watched.inference() as module:
            out["scales"].append(float(module.get_parameter("logit_scale")))
            # A tower alone, twice; then the whole model: not in the order of training.
            for _ in range(2):
                module.get_submodule("image")(held_out.images)
            u, v, _ = module(held_out.images, held_out.input_ids)
            assert not u.requires_grad
            assert not module.training
        assert model.training
        steps(watched, range(number, number + 1), world)
        out["features"].append([u.numpy(), v.numpy()])
    one, other = (MemoryReader(shared_by(world, e)).whole() for e in (plain, watched))
    out["equal"] = relative_difference(one, other) == 0
    # With nothing in between, as at the end of a stage.
    out["state"] = state_of(watched)
    with watched.inference() as module:
        out["last"] = module(held_out.images, held_out.input_ids)[0].numpy()
    return out


def _gang(
    start: Portable,
    counters: dict[str, float],
    counting_start: Portable,
    counting_counters: dict[str, float],
) -> dict[Any, Any]:
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    world = join(60.0)
    out: dict[Any, Any] = {}
    handed_over = counting_start
    for case, stage in CASES.items():
        with all_in_shards() if "shards" in case else contextlib.nullcontext():
            out[case] = _stage(stage, world, start, counters)
            # From one process to stage 0, from each stage to the next.
            out[case]["counting"], handed_over = _counting(
                stage, world, handed_over, counting_counters
            )
        logging.getLogger("DeepSpeed").addHandler(handler)
    out["messages"] = messages
    settings = tiny_settings(batch_size=8, gradient_cache_chunks=2, zero_stage=3)
    model = build_model(small_coswin(), seed=0, drop_path=0.0)
    objective = ContrastiveObjective(settings.loss)
    real = make_engine(EngineKind.DEEPSPEED, model, settings, objective, world)
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
    out["counting"] = _alone_counting()
    return out


def _alone_counting() -> dict[str, Any]:
    """The same with frozen parameters, rules and buffers."""
    one, _ = counting_engine("torch", tiny_settings(), World())
    out: dict[str, Any] = {"results": steps(one, range(3), World())}
    out["fragments"], out["counters"] = portable(one.fragments()), one.counters()
    out["results"] += steps(one, range(3, 6), World())
    out["state"] = state_of(one)
    watched, _ = counting_engine("torch", tiny_settings(), World())
    held_out = tiny_batch(9)
    out["features"], out["scales"] = [], []
    for number in range(5):
        with watched.inference() as module:
            u, v, logit_scale = module(held_out.images, held_out.input_ids)
        out["features"].append([u.numpy(), v.numpy()])
        out["scales"].append(float(logit_scale))
        steps(watched, range(number, number + 1), World())
    return out


@pytest.fixture(scope="module")
def ranks(alone: dict[str, Any]) -> list[dict[Any, Any]]:
    counting = alone["counting"]
    return run_gang(
        _gang,
        2,
        alone["fragments"],
        alone["counters"],
        counting["fragments"],
        counting["counters"],
        timeout=500,
    )


@pytest.fixture(params=CASES)
def both(request: pytest.FixtureRequest, ranks: list[dict[Any, Any]]) -> list[dict[Any, Any]]:
    """What the two ranks saw at one stage."""
    return [rank[request.param] for rank in ranks]


@pytest.mark.parametrize("chunks", [1, 3])
def test_same_parameters_as_one_torch_process(
    both: list[dict[Any, Any]], alone: dict[str, Any], chunks: int
) -> None:
    first, other = (out["state", chunks] for out in both)
    assert relative_difference(first, alone["after 5"]) < 1e-5
    assert other == {}, "only rank 0 is told"
    for out in both:
        if ("live", chunks) in out:
            assert relative_difference(out["live", chunks], first) == 0
        for result, expected in zip(out["results", chunks], alone["results"], strict=True):
            assert result.loss == pytest.approx(expected.loss, rel=1e-5)
            assert result.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)
    # The labels of one rank tell about that rank: what is recorded is the mean over ranks.
    results = zip(*(out["results", chunks] for out in both), alone["results"], strict=True)
    for one, two, expected in results:
        mean = {name: (one.metrics[name] + two.metrics[name]) / 2 for name in one.metrics}
        assert mean == pytest.approx(dict(expected.metrics), rel=1e-5)


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
    assert relative_difference(both[0]["continued"], restored.model_state()) < 1e-5


def test_one_torch_process_resumes_as_two_ranks(
    both: list[dict[Any, Any]], alone: dict[str, Any]
) -> None:
    out = both[0]
    assert relative_difference(out["restored"], alone["after 3"]) == 0
    assert relative_difference(out["restored and continued"], alone["after 6"]) < 1e-5


def test_frozen_parameters_rates_decays_and_bounds_are_those_of_one_torch_process(
    both: list[dict[Any, Any]], alone: dict[str, Any]
) -> None:
    out, expected = both[0]["counting"], alone["counting"]
    assert relative_difference(*comparable(out["state"], expected["state"])) < 1e-5
    for result, reference in zip(out["results"], expected["results"], strict=True):
        assert result.loss == pytest.approx(reference.loss, rel=1e-5)
        assert result.grad_norm == pytest.approx(reference.grad_norm, rel=1e-5)
    initial = dict(FrozenAndCounting().named_parameters())
    for name in FrozenAndCounting.FROZEN:
        assert torch.equal(torch.as_tensor(out["state"][name]), initial[name])
    # The first step would bring it to 2.65, later ones bring it down.
    assert out["inference"]["scales"][1] == pytest.approx(2.6, abs=1e-6)
    assert float(out["state"]["text.0.weight"].max()) <= 0.25


def comparable(
    one: Mapping[str, Any], other: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Without the buffer that follows rank 0's images, which are not those of one process."""
    first, second = ({n: t for n, t in each.items() if n != "mean"} for each in (one, other))
    return first, second


def test_buffers_are_the_same_on_every_rank_and_left_alone_by_a_skipped_step(
    both: list[dict[Any, Any]],
) -> None:
    one, other = (out["counting"] for out in both)
    assert (
        relative_difference(
            {n: t for n, t in one["buffers"].items() if n != "scratch"},
            {n: t for n, t in other["buffers"].items() if n != "scratch"},
        )
        == 0
    )
    assert int(one["buffers"]["image.passes"]) == 6 << 40
    assert float(abs(one["buffers"]["mean"]).max()) > 0
    for out in (one, other):
        assert out["bad"].skipped
        assert out["unchanged"]


def test_frozen_parameters_and_buffers_resume_from_another_engine_or_stage(
    both: list[dict[Any, Any]], alone: dict[str, Any]
) -> None:
    """Stage 0 goes on where one torch process was, each other where the stage before it was."""
    expected = alone["counting"]
    start = MemoryReader(expected["fragments"]).whole()
    for out in (rank["counting"] for rank in both):
        for name, tensor in out["restored"].items():
            assert tensor.dtype == start[name].dtype
        assert relative_difference(*comparable(_renamed(out["restored"]), _renamed(start))) < 1e-5
    first = both[0]["counting"]
    assert (
        relative_difference(*comparable(first["restored and continued"], expected["state"])) < 1e-5
    )
    assert int(first["restored and continued"]["image.passes"]) == 6 << 40


def _renamed(tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("model/mean", "mean"): tensor for name, tensor in tensors.items()}


def test_frozen_parameters_and_buffers_resume_as_one_torch_process(
    both: list[dict[Any, Any]], alone: dict[str, Any]
) -> None:
    one, other = (rank["counting"] for rank in both)
    restored, model = counting_engine("torch", tiny_settings(), World(), seed=99)
    restored.restore(MemoryReader(one["fragments"] + other["fragments"]))
    restored.restore_counters(alone["counting"]["counters"])
    steps(restored, range(3, 6), World())
    state = live_state(model)
    assert relative_difference(*comparable(state, alone["counting"]["state"])) < 1e-5
    assert int(model.image.passes) == 6 << 40


def test_evaluation_between_steps_leaves_training_alone(
    both: list[dict[Any, Any]], alone: dict[str, Any]
) -> None:
    expected = alone["counting"]
    for out in (rank["counting"]["inference"] for rank in both):
        assert out["equal"], "bit by bit"
        assert out["scales"] == pytest.approx(expected["scales"][:4], rel=1e-5)
        for found, reference in zip(out["features"], expected["features"], strict=False):
            for one, other in zip(found, reference, strict=True):
                torch.testing.assert_close(
                    torch.as_tensor(one), torch.as_tensor(other), rtol=1e-4, atol=1e-5
                )
        torch.testing.assert_close(
            torch.as_tensor(out["last"]),
            torch.as_tensor(expected["features"][4][0]),
            rtol=1e-4,
            atol=1e-5,
        )


def test_the_scale_is_clamped(both: list[dict[Any, Any]]) -> None:
    for out in both:
        first, *later = out["scales"]
        assert first == pytest.approx(math.exp(2.659), rel=1e-6)
        assert max(later) <= 10.0 + 1e-5
    assert float(both[0]["clamped"]["logit_scale"][0]) <= math.log(10.0) + 1e-6


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
