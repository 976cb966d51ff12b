"""The torch engine: one process against several, precision, skipping, restoring, determinism."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from florence.checkpoint import CheckpointWriter, SingleProcess, newest
from florence.config import ActivationCheckpointing, ContrastiveLoss, EngineKind, Precision
from florence.distributed.engine import Engine, StepResult
from florence.distributed.engines import make_engine, resolve_engine
from florence.distributed.world import World, join
from florence.errors import ConfigurationError, DataError, MissingExtraError
from florence.losses.contrastive import ContrastiveObjective
from florence.models.two_tower import build_model
from florence.storage import open_storage
from florence.tasks.pretrain.settings import Pretrain
from tests.florence.distributed.tiny import (
    FrozenAndCounting,
    MemoryReader,
    TinyTwoTower,
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

LR = 0.01


def engine(settings: Pretrain, world: World | None = None, **model: Any) -> Engine:
    return make_engine(
        EngineKind.TORCH,
        TinyTwoTower(**model),
        settings,
        ContrastiveObjective(settings.loss),
        world or World(),
        rules=tiny_rules(settings),
    )


def counting_engine(
    settings: Pretrain, world: World | None = None, **model: Any
) -> tuple[Engine, FrozenAndCounting]:
    """An engine with frozen parameters, other rules and changing buffers, and its model."""
    module = FrozenAndCounting(**model)
    objective = ContrastiveObjective(settings.loss)
    one = make_engine(
        EngineKind.TORCH, module, settings, objective, world or World(), rules=module.RULES
    )
    return one, module


def steps(engine: Engine, numbers: range, world: World | None = None) -> list[StepResult]:
    world = world or World()
    return [engine.step(tiny_batch(n).rows_of(world.rank, world.size), lr=LR) for n in numbers]


def test_same_steps_give_the_same_bits() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(11)
        one = engine(tiny_settings(gradient_cache_chunks=3), dropout=0.2)
        results = steps(one, range(4))
        states.append((one.model_state(), results))
    assert [told(result) for result in states[0][1]] == [told(result) for result in states[1][1]]
    for name, tensor in states[0][0].items():
        assert torch.equal(tensor, states[1][0][name])


@pytest.mark.parametrize("chunks", [2, 5, 12])
def test_chunks_do_not_change_the_parameters(chunks: int) -> None:
    one, other = engine(tiny_settings()), engine(tiny_settings(gradient_cache_chunks=chunks))
    plain, cached = steps(one, range(5)), steps(other, range(5))
    assert relative_difference(other.model_state(), one.model_state()) < 1e-5
    for a, b in zip(plain, cached, strict=True):
        assert b.loss == pytest.approx(a.loss, rel=1e-5)
        assert b.grad_norm == pytest.approx(a.grad_norm, rel=1e-5)
        assert told(b).metrics == pytest.approx(told(a).metrics, rel=1e-5)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_by_bit() -> None:
    whole = engine(tiny_settings())
    steps(whole, range(6))
    first = engine(tiny_settings())
    steps(first, range(3))
    reader, counters = MemoryReader(portable(first.fragments())), first.counters()
    second = engine(tiny_settings(), seed=99)
    second.restore(reader)
    second.restore_counters(counters)
    steps(second, range(3, 6))
    for name, tensor in whole.model_state().items():
        assert torch.equal(tensor, second.model_state()[name])
    assert counters["optimizer_steps"] == 3


def test_frozen_parameters_and_buffers_are_saved_and_resumed_bit_by_bit() -> None:
    whole, expected = counting_engine(tiny_settings())
    steps(whole, range(6))
    first, _ = counting_engine(tiny_settings())
    steps(first, range(3))
    fragments = portable(first.fragments())
    names = {name for name, *_ in fragments}
    assert {f"model/{name}" for name in first.model.state_dict()} <= names
    assert not {"model/scratch", *(f"exp_avg/{name}" for name in FrozenAndCounting.FROZEN)} & names
    second, resumed = counting_engine(tiny_settings(), seed=99)
    second.restore(MemoryReader(fragments))
    second.restore_counters(first.counters())
    steps(second, range(3, 6))
    state = resumed.state_dict()
    assert state.keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert state[name].dtype == tensor.dtype
        assert torch.equal(state[name], tensor), name
    assert int(resumed.image.passes) == 6 << 40
    initial = dict(FrozenAndCounting().named_parameters())
    for name in FrozenAndCounting.FROZEN:
        assert torch.equal(state[name], initial[name])


def test_a_checkpoint_on_a_disk_keeps_dtypes(tmp_path: Path) -> None:
    """Through the writer and the reader that stages use."""
    first, model = counting_engine(tiny_settings())
    steps(first, range(2))
    folder = open_storage(str(tmp_path))
    writer = CheckpointWriter(
        folder, attempt=1, keep=3, world=World(), exchange=SingleProcess(), clock=lambda: 0.0
    )
    writer.save(2, first.fragments(), {}, {})
    writer.wait()
    checkpoint = newest(folder)
    assert checkpoint is not None
    second, resumed = counting_engine(tiny_settings(), seed=99)
    second.restore(checkpoint)
    for name, tensor in model.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_a_skipped_step_leaves_buffers_alone() -> None:
    one, model = counting_engine(tiny_settings())
    steps(one, range(1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batch = tiny_batch(1)
    batch.images[0, 0, 0, 0] = float("inf")
    assert one.step(batch, lr=LR).skipped
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not steps(one, range(1, 2))[0].skipped
    assert not torch.equal(model.mean, before["mean"])


def test_the_model_state_is_a_copy_in_fp32_but_of_whole_numbers() -> None:
    one, model = counting_engine(tiny_settings())
    steps(one, range(1))
    state = one.model_state()
    assert state.keys() == model.state_dict().keys()
    assert state["image.passes"].dtype is torch.int64
    assert int(state["image.passes"]) == 1 << 40
    assert {t.dtype for name, t in state.items() if name != "image.passes"} == {torch.float32}
    kept = {name: tensor.clone() for name, tensor in state.items()}
    steps(one, range(1, 2))
    assert all(torch.equal(state[name], kept[name]) for name in kept)


def test_evaluation_between_steps_leaves_training_alone() -> None:
    one, model = counting_engine(tiny_settings(), dropout=0.2)
    other, expected = counting_engine(tiny_settings(), dropout=0.2)
    batch = tiny_batch(9)
    torch.manual_seed(5)
    steps(other, range(4))
    torch.manual_seed(5)
    for number in range(4):
        steps(one, range(number, number + 1))
        with one.inference() as held:
            u, _, _ = held(batch.images, batch.input_ids)
            assert not u.requires_grad
            assert torch.equal(u, held(batch.images, batch.input_ids)[0]), "dropout is off"
        assert all(module.training for module in model.modules())
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_a_checkpoint_of_another_shape_is_refused_by_name() -> None:
    one = engine(tiny_settings())
    fragments = [
        (name, (5, 9) if name == "model/text.3.weight" else shape, offset, values)
        if name != "model/text.3.weight"
        else (name, (9, 5), offset, values)
        for name, shape, offset, values in portable(one.fragments())
    ]
    with pytest.raises(DataError, match=r"model/text\.3\.weight"):
        one.restore(MemoryReader(fragments))


def test_the_scale_is_clamped_after_a_step() -> None:
    one = engine(tiny_settings(loss=ContrastiveLoss(max_scale=10.0)))
    first, second = steps(one, range(2))
    assert float(first.metrics["logit_scale"]) == pytest.approx(math.exp(2.659), rel=1e-6)
    assert float(second.metrics["logit_scale"]) <= 10.0 + 1e-5
    assert float(one.model_state()["logit_scale"]) <= math.log(10.0) + 1e-6


def test_the_loss_of_a_step_is_that_of_the_batch_before_it() -> None:
    model, batch = TinyTwoTower(), tiny_batch(0)
    objective = ContrastiveObjective(ContrastiveLoss())
    outputs = objective.outputs(model, batch)
    expected = objective.loss(outputs, batch, objective.prepare(batch))
    (result,) = steps(engine(tiny_settings()), range(1))
    assert result.loss == pytest.approx(expected.value.item(), rel=1e-6)
    assert result.metrics.keys() == expected.metrics.keys()
    for name, metric in expected.metrics.items():
        assert float(result.metrics[name]) == pytest.approx(float(metric), rel=1e-6)
    assert not result.skipped


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.FP16])
@pytest.mark.parametrize("chunks", [1, 3])
def test_half_precision_follows_fp32(precision: Precision, chunks: int) -> None:
    exact = engine(tiny_settings())
    half = engine(tiny_settings(precision=precision, gradient_cache_chunks=chunks))
    # The gradients of this model are large: 2^16 times them would overflow fp16.
    half.restore_counters({"optimizer_steps": 0, "loss_scale": 64.0, "loss_scale_good_steps": 0})
    assert not any(result.skipped for result in steps(exact, range(3)))
    assert not any(result.skipped for result in steps(half, range(3)))
    assert all(tensor.dtype == torch.float32 for tensor in half.model_state().values())
    difference = relative_difference(half.model_state(), exact.model_state())
    assert 1e-7 < difference < 0.2


def test_fp16_overflow_skips_and_halves_the_loss_scale() -> None:
    one = engine(tiny_settings(precision=Precision.FP16))
    before = one.model_state()
    batch = tiny_batch(0)
    batch.images *= 1e6
    result = one.step(batch, lr=LR)
    assert result.skipped
    assert one.counters() == {
        "optimizer_steps": 0,
        "loss_scale": 32_768.0,
        "loss_scale_good_steps": 0,
    }
    for name, tensor in before.items():
        assert torch.equal(tensor, one.model_state()[name])


def _two_ranks() -> dict[str, Any]:
    world = join(60.0)
    out: dict[str, Any] = {}
    for chunks in (1, 2, 3):
        one = engine(tiny_settings(gradient_cache_chunks=chunks), world)
        out["results", chunks] = [told(result) for result in steps(one, range(5), world)]
        out["state", chunks] = live_state(one.model)
        out["model state", chunks] = numpy_of(one.model_state())
    before = portable(one.fragments())
    batch = tiny_batch(5).rows_of(world.rank, world.size)
    if world.rank == 1:
        batch.images[0, 0, 0, 0] = float("inf")
    out["bad"] = told(one.step(batch, lr=LR))
    after = portable(one.fragments())
    out["unchanged"] = all((a[3] == b[3]).all() for a, b in zip(before, after, strict=True))
    out["fragments"], out["counters"] = after, one.counters()
    out["next"] = [told(result) for result in steps(one, range(6, 8), world)]
    out["last"] = live_state(one.model)
    out |= _counting_ranks(world)
    out["coswin"] = coswin_losses(world, chunks=2, checkpointing=ActivationCheckpointing.FULL)
    return out


def _counting_ranks(world: World) -> dict[str, Any]:
    """Buffers and frozen parameters on several ranks."""
    one, model = counting_engine(tiny_settings(), world)
    steps(one, range(3), world)
    out: dict[str, Any] = {"counting fragments": portable(one.fragments())}
    batch = tiny_batch(3).rows_of(world.rank, world.size)
    batch.images[0, 0, 0, 0] = float("inf")
    one.step(batch, lr=LR)
    steps(one, range(3, 5), world)
    out["counting"] = live_state(model)
    return out


def coswin_losses(
    world: World, *, chunks: int, checkpointing: ActivationCheckpointing
) -> list[float]:
    """Losses of a real model on one batch, repeated."""
    settings = tiny_settings(batch_size=8, gradient_cache_chunks=chunks)
    model = build_model(small_coswin(), seed=0, drop_path=0.0, checkpointing=checkpointing)
    one = make_engine(
        EngineKind.TORCH, model, settings, ContrastiveObjective(ContrastiveLoss()), world
    )
    batch = pairs(8).rows_of(world.rank, world.size)
    return [one.step(batch, lr=1e-3).loss for _ in range(3)]


def test_two_processes_equal_one() -> None:
    alone = engine(tiny_settings())
    expected = steps(alone, range(5))
    ranks = run_gang(_two_ranks, 2)
    for out in ranks:
        for chunks in (1, 2, 3):
            assert relative_difference(out["state", chunks], alone.model_state()) < 1e-5
            if out is ranks[0]:
                assert relative_difference(out["model state", chunks], out["state", chunks]) == 0
            else:
                assert out["model state", chunks] == {}
            for result, reference in zip(out["results", chunks], expected, strict=True):
                assert result.loss == pytest.approx(reference.loss, rel=1e-5)
                assert result.grad_norm == pytest.approx(reference.grad_norm, rel=1e-5)
        assert out["bad"].skipped, "an infinite pixel on rank 1 must stop the step on every rank"
        assert out["unchanged"]
        assert not any(result.skipped for result in out["next"])

    expected_losses = coswin_losses(World(), chunks=1, checkpointing=ActivationCheckpointing.NONE)
    assert ranks[0]["coswin"] == ranks[1]["coswin"]
    assert ranks[0]["coswin"] == pytest.approx(expected_losses, rel=1e-4)
    assert expected_losses[2] < expected_losses[0]

    reader = MemoryReader(ranks[0]["fragments"] + ranks[1]["fragments"])
    restored = engine(tiny_settings(), seed=99)
    restored.restore(reader)
    restored.restore_counters(ranks[0]["counters"])
    steps(restored, range(6, 8))
    assert relative_difference(ranks[1]["last"], restored.model_state()) < 1e-5
    _check_counting(ranks)


def _check_counting(ranks: list[dict[str, Any]]) -> None:
    """Both ranks hold rank 0's buffers; one process goes on where two were."""
    one, other = (rank["counting"] for rank in ranks)
    assert relative_difference(one, other) == 0
    alone, model = counting_engine(tiny_settings(), seed=99)
    reader = MemoryReader(ranks[0]["counting fragments"] + ranks[1]["counting fragments"])
    alone.restore(reader)
    alone.restore_counters({"optimizer_steps": 3, "loss_scale": 1.0, "loss_scale_good_steps": 0})
    steps(alone, range(3, 5))
    state = model.state_dict()
    for tensors in (one, state):
        del tensors["mean"]  # of rank 0's images here, of all there
    assert relative_difference(state, one) < 1e-5
    assert int(one["image.passes"]) == 5 << 40


@pytest.mark.parametrize(
    ("kind", "size", "cuda", "installed", "expected"),
    [
        ("auto", 1, False, True, "torch"),
        ("auto", 1, True, True, "deepspeed"),
        ("auto", 2, False, True, "deepspeed"),
        ("auto", 2, False, False, "torch"),
        ("auto", 1, True, False, "torch"),
        ("torch", 8, True, True, "torch"),
        ("deepspeed", 1, False, False, "deepspeed"),
    ],
)
def test_auto(kind: str, size: int, cuda: bool, installed: bool, expected: str) -> None:
    world = World(size=size)
    assert resolve_engine(EngineKind(kind), world, cuda, installed) == EngineKind(expected)


def test_deepspeed_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    settings = tiny_settings()
    with pytest.raises(MissingExtraError, match=r"florence\[deepspeed\]"):
        make_engine(
            EngineKind.DEEPSPEED,
            TinyTwoTower(),
            settings,
            ContrastiveObjective(settings.loss),
            World(),
        )


@pytest.mark.parametrize(
    ("settings", "size", "message"),
    [
        ({"batch_size": 12}, 5, "batchSize=12 does not divide over 5 processes"),
        ({"gradient_cache_chunks": 7}, 2, "gradientCacheChunks=7 is more than the 6 samples"),
    ],
)
def test_batches_that_cannot_be_cut_are_refused(
    settings: dict[str, int], size: int, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        engine(tiny_settings(**settings), World(size=size))
