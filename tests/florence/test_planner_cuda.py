"""The planner's bytes against what a GPU really holds."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch

from florence.config import (
    PRESETS,
    ActivationCheckpointing,
    Architecture,
    Attention,
    EngineKind,
    Precision,
)
from florence.distributed.engines import make_engine
from florence.distributed.world import join
from florence.kinds import KINDS
from florence.losses.contrastive import ContrastiveObjective
from florence.models.two_tower import build_model
from florence.planner import memory_per_gpu
from florence.tasks.pretrain.settings import Pretrain
from tests.florence.distributed.tiny import TinyBatch

pytestmark = pytest.mark.cuda

ROWS = 32


@pytest.fixture(autouse=True)
def _empty_gpu() -> Iterator[None]:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield
    gc.collect()
    torch.cuda.empty_cache()


def batch_of(architecture: Architecture, settings: Pretrain) -> TinyBatch:
    side, context = settings.resolution, architecture.text.context
    ids = torch.randint(1, architecture.text.vocabulary, (ROWS, context))
    return TinyBatch(torch.randn(ROWS, 3, side, side), ids, torch.arange(ROWS))


@pytest.mark.parametrize("chunks", [1, 4])
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
@pytest.mark.parametrize("attention", [Attention.MATH, Attention.SDPA])
@pytest.mark.parametrize("checkpointing", ActivationCheckpointing)
def test_the_peak_of_a_step_is_the_planner_s(
    checkpointing: ActivationCheckpointing,
    attention: Attention,
    precision: Precision,
    chunks: int,
) -> None:
    """Of whole steps with AdamW, to a tenth."""
    preset = PRESETS["coswin-t"]
    image = preset.image.model_copy(update={"attention": attention})
    architecture = preset.model_copy(update={"image": image})
    settings = Pretrain(
        data="none",
        batch_size=ROWS,
        steps=10,
        resolution=224,
        precision=precision,
        activation_checkpointing=checkpointing,
        gradient_cache_chunks=chunks,
        engine=EngineKind.TORCH,
    )
    before = torch.cuda.memory_allocated()
    model = build_model(
        architecture, seed=0, drop_path=0.0, checkpointing=settings.activation_checkpointing
    )
    engine = make_engine(
        EngineKind.TORCH, model, settings, ContrastiveObjective(settings.loss), join(60.0, {})
    )
    batch = batch_of(architecture, settings)
    for _ in range(2):
        engine.step(batch, lr=1e-4)
    measured = torch.cuda.max_memory_allocated() - before
    cost = KINDS["pretrain"].cost
    assert cost is not None
    planned = memory_per_gpu(architecture, settings, cost=cost, processes=1, cuda=True)
    used = planned.total - planned.overhead
    assert measured == pytest.approx(used, rel=0.1)
