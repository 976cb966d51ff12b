"""Both engines on a GPU: against the CPU and each other, in every precision, and exact resume."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from florence.config import EngineKind, Precision
from florence.distributed.engine import Engine
from florence.distributed.engines import make_engine
from florence.distributed.world import World, join
from florence.losses.contrastive import ContrastiveObjective
from florence.models.two_tower import build_model
from florence.tasks.pretrain.settings import Pretrain
from tests.florence.distributed.tiny import (
    MemoryReader,
    TinyTwoTower,
    Told,
    numpy_of,
    pairs,
    relative_difference,
    small_coswin,
    tiny_batch,
    tiny_rules,
    tiny_settings,
    told,
)

pytestmark = pytest.mark.cuda

LR = 0.01
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
)
ENGINES = [
    pytest.param("torch", 0, id="torch"),
    *(pytest.param("deepspeed", n, id=f"ZeRO-{n}", marks=needs_deepspeed) for n in range(4)),
]


def engine(
    kind: str, settings: Pretrain, world: World | None = None, model: nn.Module | None = None
) -> Engine:
    return make_engine(
        EngineKind(kind),
        model or TinyTwoTower(),
        settings,
        ContrastiveObjective(settings.loss),
        world or join(60.0, {}),
        rules=() if model and not isinstance(model, TinyTwoTower) else tiny_rules(settings),
    )


def steps(one: Engine, numbers: range) -> list[Told]:
    return [told(one.step(tiny_batch(number), lr=LR)) for number in numbers]


def state_of(one: Engine) -> dict[str, Any]:
    return numpy_of(one.model_state())


def test_the_gpu_is_this_process_s_device() -> None:
    world = join(60.0, {})
    assert world.device == torch.device("cuda", 0)


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize(("kind", "zero"), ENGINES)
def test_fp32_is_that_of_the_cpu(kind: str, zero: int, chunks: int) -> None:
    settings = tiny_settings(zero_stage=zero, gradient_cache_chunks=chunks)
    cpu, gpu = engine("torch", settings, World()), engine(kind, settings)
    expected, actual = steps(cpu, range(5)), steps(gpu, range(5))
    assert [r.loss for r in actual] == pytest.approx([r.loss for r in expected], rel=1e-5)
    assert [r.grad_norm for r in actual] == pytest.approx([r.grad_norm for r in expected], rel=1e-4)
    assert relative_difference(state_of(gpu), state_of(cpu)) < 1e-4


@pytest.mark.parametrize(("precision", "close"), [(Precision.BF16, 0.03), (Precision.FP16, 0.01)])
@pytest.mark.parametrize(("kind", "zero"), ENGINES)
def test_half_precision_follows_fp32(
    kind: str, zero: int, precision: Precision, close: float
) -> None:
    whole = steps(engine("torch", tiny_settings()), range(8))
    half = steps(engine(kind, tiny_settings(zero_stage=zero, precision=precision)), range(24))
    taken = [result for result in half if not result.skipped]
    assert len(taken) >= 8  # fp16's scale finds its place within some steps
    assert all(math.isfinite(result.loss) for result in taken)
    assert half[0].loss == pytest.approx(whole[0].loss, rel=close)


@pytest.mark.parametrize(("kind", "zero"), ENGINES)
def test_a_step_that_is_not_finite_changes_nothing(kind: str, zero: int) -> None:
    one = engine(kind, tiny_settings(zero_stage=zero))
    steps(one, range(2))
    before = state_of(one)
    batch = tiny_batch(2)
    batch.images[0, 0, 0, 0] = float("inf")
    assert told(one.step(batch, lr=LR)).skipped
    assert relative_difference(state_of(one), before) == 0


@pytest.mark.parametrize(("kind", "zero"), ENGINES)
def test_a_resumed_engine_goes_on_with_the_same_bits(kind: str, zero: int) -> None:
    settings = tiny_settings(zero_stage=zero)
    whole = engine(kind, settings)
    steps(whole, range(3))
    fragments = [
        (f.name, f.shape, f.offset, f.values.clone().cpu().numpy()) for f in whole.fragments()
    ]
    counters = whole.counters()
    expected = steps(whole, range(3, 6))
    resumed = engine(kind, settings, model=TinyTwoTower(seed=99))
    resumed.restore(MemoryReader(fragments))
    resumed.restore_counters(counters)
    assert steps(resumed, range(3, 6)) == expected
    assert relative_difference(state_of(resumed), state_of(whole)) == 0


def test_a_checkpoint_of_the_gpu_continues_on_the_cpu() -> None:
    gpu = engine("torch", tiny_settings())
    steps(gpu, range(3))
    fragments = [
        (f.name, f.shape, f.offset, f.values.clone().cpu().numpy()) for f in gpu.fragments()
    ]
    cpu = engine("torch", tiny_settings(), World(), TinyTwoTower(seed=99))
    cpu.restore(MemoryReader(fragments))
    cpu.restore_counters(gpu.counters())
    expected = [r.loss for r in steps(gpu, range(3, 6))]
    assert [r.loss for r in steps(cpu, range(3, 6))] == pytest.approx(expected, rel=1e-5)


def test_a_replayed_chunk_drops_what_it_dropped_the_first_time() -> None:
    """The gradient cache computes a chunk twice: drop-path draws from the GPU's generator."""
    model = build_model(small_coswin(), seed=0, drop_path=0.4)
    seen: list[Tensor] = []
    model.register_forward_hook(lambda _, __, outputs: seen.append(outputs[0].detach().clone()))
    one = engine("torch", tiny_settings(batch_size=12, gradient_cache_chunks=3), model=model)
    one.step(pairs(12), lr=LR)
    first, second, _, again, twice = seen
    assert torch.equal(first, again)
    assert torch.equal(second, twice)
    assert not torch.equal(first, second)
