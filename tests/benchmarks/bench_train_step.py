"""Whole training steps against open_clip's trainer, and what the gradient cache costs.

    python tests/benchmarks/bench_train_step.py

Three ratios from one run, of the CPU seconds of alternating steps on one thread:

- our engine and Swin-T + text tower against open_clip's model (timm's Swin-T and the same text
  tower) in open_clip's ``train_one_epoch``: forward, loss, backward, clipping, AdamW;
- our engine against ``train_one_epoch`` with our towers in both;
- the gradient cache with 8 chunks against the plain step: time, and the most bytes that autograd
  held at once for the backward pass (saved-tensor hooks; parameters not counted).
"""

from __future__ import annotations

import math
import statistics
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import open_clip
import torch
from open_clip_train.train import train_one_epoch
from torch import Tensor, nn

from florence.config import (
    Architecture,
    ContrastiveLoss,
    Embedding,
    EngineKind,
    ImageTower,
    Optimizer,
    TextTower,
)
from florence.distributed.engines import make_engine
from florence.distributed.objective import ContrastiveObjective
from florence.distributed.world import World
from florence.models.two_tower import TwoTower, build_model
from florence.tasks.pretrain.settings import Pretrain
from tests.florence.distributed.tiny import TinyBatch, pairs, peak_saved_bytes

OPTIMIZER = Optimizer(lr=1e-4, clip_norm=5.0)
TEXT = TextTower(width=256, layers=4, heads=4, hidden=1024)
SWIN_T = Architecture(
    image=ImageTower(width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), embedding=Embedding.SWIN),
    text=TEXT,
    embed_dim=256,
)
SMALL = Architecture(
    image=ImageTower(width=48, depths=(1, 1, 2, 1), heads=(2, 4, 8, 16)),
    text=TEXT,
    embed_dim=256,
)


class OneBatch:
    """An epoch of one batch, as open_clip's trainer wants to be given it."""

    num_batches = 1

    def __init__(self, batch: TinyBatch) -> None:
        self._batch = batch
        self.num_samples = len(batch.ids)
        self.dataloader = self

    def set_epoch(self, epoch: int) -> None:
        """Nothing is shuffled."""

    def __iter__(self) -> Any:
        yield self._batch.images, self._batch.ids


class OpenClipContract(nn.Module):
    """Our towers behind the forward that open_clip's trainer calls."""

    def __init__(self, model: TwoTower) -> None:
        super().__init__()
        self.model = model
        self.logit_scale = model.logit_scale

    def forward(self, images: Tensor, ids: Tensor) -> dict[str, Tensor]:
        u, v, logit_scale = self.model(images, ids)
        return {"image_features": u, "text_features": v, "logit_scale": logit_scale.exp()}


def open_clip_step(model: nn.Module, batch: TinyBatch) -> Callable[[], None]:
    """One optimizer step by ``train_one_epoch`` with the optimizer that open_clip builds."""
    plain = [p for p in model.parameters() if p.ndim < 2]
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    optimizer = torch.optim.AdamW(
        [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.1}],
        lr=OPTIMIZER.lr,
        betas=(OPTIMIZER.beta1, OPTIMIZER.beta2),
        eps=OPTIMIZER.eps,
    )
    arguments = Namespace(
        device="cpu",
        precision="fp32",
        distill=False,
        accum_freq=1,
        skip_scheduler=True,
        horovod=False,
        grad_clip_norm=OPTIMIZER.clip_norm,
        rank=0,
        world_size=1,
        batch_size=len(batch.ids),
        log_every_n_steps=1,
        wandb=False,
    )
    loss, data = open_clip.ClipLoss(), {"train": OneBatch(batch)}

    def step() -> None:
        train_one_epoch(model, data, loss, 0, optimizer, None, None, None, arguments)

    return step


class OurStep:
    """One optimizer step by the torch engine."""

    def __init__(self, architecture: Architecture, batch: TinyBatch, chunks: int = 1) -> None:
        settings = Pretrain(
            data="none",
            batch_size=len(batch.ids),
            steps=1_000,
            optimizer=OPTIMIZER,
            gradient_cache_chunks=chunks,
        )
        self.model = build_model(architecture, seed=0)
        objective = ContrastiveObjective(ContrastiveLoss())
        self._engine = make_engine(EngineKind.TORCH, self.model, settings, objective, World())
        self._batch = batch

    def __call__(self) -> None:
        result = self._engine.step(self._batch, lr=OPTIMIZER.lr)
        assert math.isfinite(result.loss)


def open_clip_swin_t() -> nn.Module:
    """open_clip's two towers of the sizes of ``SWIN_T``."""
    return open_clip.CustomTextCLIP(
        embed_dim=SWIN_T.embed_dim,
        vision_cfg=open_clip.CLIPVisionCfg(
            timm_model_name="swin_tiny_patch4_window7_224",
            timm_pool="",
            timm_proj="linear",
            image_size=224,
        ),
        text_cfg=open_clip.CLIPTextCfg(width=TEXT.width, heads=TEXT.heads, layers=TEXT.layers),
        output_dict=True,
    )


def ratio(ours: Callable[[], None], theirs: Callable[[], None], rounds: int) -> tuple[float, float]:
    """Seconds of theirs over ours, step by step in alternation: median and best-against-best."""
    ours(), theirs()
    pairs_of_seconds = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    median = statistics.median(b / a for a, b in pairs_of_seconds)
    best = min(b for _, b in pairs_of_seconds) / min(a for a, _ in pairs_of_seconds)
    return median, best


def seconds(step: Callable[[], None]) -> float:
    """CPU time of one step; on one thread that is the wall-clock time of an idle machine."""
    start = time.process_time()
    step()
    return time.process_time() - start


def full_context(size: int, side: int) -> TinyBatch:
    """Images and texts that fill the context, so that no tower can save work on padding."""
    batch = pairs(size, side)
    ids = torch.randint(1, 49_000, (size, TEXT.context), generator=torch.Generator().manual_seed(1))
    ids[:, 0], ids[:, -1] = 49_406, 49_407
    return TinyBatch(batch.images, ids, torch.arange(size))


def main() -> None:
    """Print the ratios."""
    torch.set_num_threads(1)
    large, small = full_context(4, 224), full_context(8, 112)

    model = open_clip_swin_t()
    counts = [sum(p.numel() for p in m.parameters()) for m in (model, build_model(SWIN_T, seed=0))]
    print(f"parameters: open_clip {counts[0]:,}, ours {counts[1]:,}")
    median, best = ratio(OurStep(SWIN_T, large), open_clip_step(model, large), rounds=4)
    print(f"samples/s over open_clip, its own Swin-T:  {median:.2f} (best steps {best:.2f})")

    theirs = open_clip_step(OpenClipContract(build_model(SMALL, seed=0)), small)
    median, best = ratio(OurStep(SMALL, small), theirs, rounds=6)
    print(f"samples/s over open_clip, our towers:      {median:.2f} (best steps {best:.2f})")

    batch = full_context(128, 112)
    plain, cached = OurStep(SMALL, batch), OurStep(SMALL, batch, chunks=8)
    median, best = ratio(plain, cached, rounds=3)
    print(f"gradient cache, 8 chunks, time over plain: {median:.2f} (best steps {best:.2f})")
    bytes_plain = peak_saved_bytes(plain.model, plain)
    bytes_cached = peak_saved_bytes(cached.model, cached)
    print(
        f"gradient cache, 8 chunks, bytes over plain: {bytes_cached / bytes_plain:.3f} "
        f"({bytes_cached / 2**20:.0f} of {bytes_plain / 2**20:.0f} MiB)"
    )


if __name__ == "__main__":
    main()
