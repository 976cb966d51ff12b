"""Memory of a step: real optimizers hold what the formulas say, and the advice holds its rules."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from florence.config import PRESETS, ActivationCheckpointing, EngineKind
from florence.data.pairs import PairBatch
from florence.distributed.engine import Engine
from florence.distributed.engines import make_engine
from florence.distributed.world import World
from florence.errors import ConfigurationError
from florence.losses.contrastive import ContrastiveObjective
from florence.models.two_tower import build_model
from florence.planner.memory import (
    BUCKET_ELEMENTS,
    FP32,
    memory_options,
    memory_per_gpu,
    model_state_bytes,
    recommend,
)
from florence.planner.sizes import parameters
from florence.tasks.pretrain.cost import PretrainCost
from florence.tasks.pretrain.settings import Pretrain
from tests.gang import run_gang

COST = PretrainCost()
NANO = PRESETS["coswin-nano"]
PSI = parameters(NANO).total


def pretrain(**changes: object) -> Pretrain:
    """Settings of a stage, with some changed."""
    return Pretrain.model_validate(
        {"data": "x", "batch_size": 8, "steps": 2, "resolution": 32} | changes
    )


def engine_of(stage: Pretrain, world: World) -> Engine:
    objective = ContrastiveObjective(stage.loss)
    return make_engine(stage.engine, build_model(NANO, seed=0), stage, objective, world)


def batch_of(rows: int) -> PairBatch:
    return PairBatch(
        images=torch.randn(rows, 3, 32, 32),
        input_ids=torch.randint(1, 49_406, (rows, 20)),
        labels=torch.arange(rows),
        keys=("key",) * rows,
    )


def storage_bytes(tensors: list[Tensor]) -> int:
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def test_state_of_the_torch_engine() -> None:
    stage = pretrain(engine=EngineKind.TORCH)
    model = build_model(NANO, seed=0)
    optimizer = torch.optim.AdamW(model.parameters())
    u, v, scale = model(torch.randn(2, 3, 32, 32), torch.ones(2, 5, dtype=torch.int64))
    ((u @ v.T) * scale).sum().backward()
    optimizer.step()
    moments = [t for state in optimizer.state.values() for t in state.values() if t.ndim]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    held = storage_bytes([*model.parameters(), *gradients, *moments])
    assert model_state_bytes(NANO, stage, cost=COST, processes=1, cuda=False) == held


def live_before_step(zero_stage: int) -> int:
    """Bytes of the tensors of this rank between the backward pass and the optimizer's step."""
    stage = pretrain(engine=EngineKind.DEEPSPEED, zero_stage=zero_stage)
    rank = dist.get_rank()
    world = World(rank=rank, size=2, local_rank=rank, local_size=2, device=torch.device("cpu"))
    engine = engine_of(stage, world)
    seen: list[int] = []
    step = engine._engine.step  # type: ignore[attr-defined]

    def spy() -> None:
        gc.collect()
        tensors = [o for o in gc.get_objects() if type(o) in (Tensor, torch.nn.Parameter)]
        tensors += [t.grad for t in tensors if t.is_leaf and t.grad is not None]
        seen.append(storage_bytes(tensors))
        step()

    engine._engine.step = spy  # type: ignore[attr-defined]
    engine.step(batch_of(4), lr=1e-4)
    return seen[0]


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_state_of_deepspeed(zero_stage: int) -> None:
    """Its bytes before the step; buckets and gathered parameters come and go around it."""
    held = run_gang(live_before_step, 2, zero_stage)[0]
    stage = pretrain(engine=EngineKind.DEEPSPEED, zero_stage=zero_stage)
    formula = model_state_bytes(NANO, stage, cost=COST, processes=2, cuda=False)
    passing = FP32 * (BUCKET_ELEMENTS + PSI)
    assert held * 0.98 <= formula
    assert formula - passing <= held


@pytest.mark.parametrize(("zero_stage", "gigabytes"), [(1, 10.8), (2, 3.6), (3, 3.6)])
def test_zero_shards_what_it_says(zero_stage: int, gigabytes: float) -> None:
    """On many GPUs only what is not sharded is left: 12, 4 or, gathered, 4 bytes a parameter."""
    stage = pretrain(batch_size=65_536, zero_stage=zero_stage)
    states = model_state_bytes(PRESETS["coswin-h"], stage, cost=COST, processes=4096, cuda=True)
    assert (states - FP32 * BUCKET_ELEMENTS) / 1e9 == pytest.approx(gigabytes, rel=0.02)


def test_a_batch_must_divide_over_the_gpus() -> None:
    assert pretrain(batch_size=24_576).samples_per_process(512) == 48
    with pytest.raises(ConfigurationError, match=r"batchSize=100 .* 7 processes.* such as 98"):
        pretrain(batch_size=100).samples_per_process(7)


def test_parts_add_up_and_chunks_divide_activations() -> None:
    whole = pretrain(batch_size=1024, precision="bf16")
    parts = pretrain(batch_size=1024, precision="bf16", gradient_cache_chunks=4)
    a = memory_per_gpu(NANO, whole, cost=COST, processes=8, cuda=True)
    b = memory_per_gpu(NANO, parts, cost=COST, processes=8, cuda=True)
    assert b.activations * 4 == pytest.approx(a.activations, abs=4)
    assert b.model_states == a.model_states
    assert a.total == pytest.approx(
        a.model_states + a.activations + a.batch + a.features + a.logits + a.overhead, abs=5
    )


def test_row_chunks_bound_the_logits() -> None:
    whole = memory_per_gpu(NANO, pretrain(batch_size=4096), cost=COST, processes=1, cuda=True)
    rows = pretrain(batch_size=4096, loss={"rowChunk": 64})
    assert memory_per_gpu(NANO, rows, cost=COST, processes=1, cuda=True).logits < whole.logits / 32


@settings(max_examples=40, deadline=None)
@given(
    preset=st.sampled_from(sorted(PRESETS)),
    rows=st.sampled_from([1, 6, 48, 384]),
    gpus=st.sampled_from([1, 8, 64]),
    capacity=st.sampled_from([1e9, 10e9, 40e9, 141e9]),
    resolution=st.sampled_from([64, 224, 384]),
)
def test_recommendation_fits_and_is_never_chunks_with_full_checkpointing(
    preset: str, rows: int, gpus: int, capacity: float, resolution: int
) -> None:
    stage = pretrain(batch_size=rows * gpus, precision="bf16", resolution=resolution)
    advice = recommend(PRESETS[preset], stage, cost=COST, processes=gpus, capacity=int(capacity))
    if advice is None:
        smallest = stage.model_copy(update={"gradient_cache_chunks": rows, "zero_stage": 2})
        needs = memory_per_gpu(
            PRESETS[preset], smallest, cost=COST, processes=gpus, cuda=True
        ).total
        assert needs > capacity
        return
    assert advice.total <= capacity
    assert advice.gradient_cache_chunks == 1 or (
        advice.activation_checkpointing is ActivationCheckpointing.NONE
        and rows % advice.gradient_cache_chunks == 0
    )


def test_options_shrink_with_zero_stage_and_checkpointing() -> None:
    options = memory_options(
        PRESETS["coswin-h"],
        pretrain(batch_size=24_576, precision="bf16", resolution=224),
        cost=COST,
        processes=512,
        cuda=True,
        capacity=40_000_000_000,
    )
    totals = {(o.zero_stage, o.activation_checkpointing): o.total for o in options}
    assert len(totals) == 12
    none, selective, full = ActivationCheckpointing
    for stage in range(4):
        assert totals[stage, none] > totals[stage, selective] > totals[stage, full]
    for kind in ActivationCheckpointing:
        assert totals[0, kind] > totals[1, kind] > totals[2, kind]
