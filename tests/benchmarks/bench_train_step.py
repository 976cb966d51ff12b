"""Whole training steps against open_clip's trainer, and what chunks of a batch cost.

    python tests/benchmarks/bench_train_step.py [--rounds 4] [--images 128]

Ratios from one run, of the CPU seconds of alternating steps on one thread:

- our engine and Swin-T + text tower against open_clip's model (timm's Swin-T and the same text
  tower) in open_clip's ``train_one_epoch``: forward, loss, backward, clipping, AdamW;
- our engine against ``train_one_epoch`` with our towers in both;
- 8 chunks against the plain step: time, and the most bytes that autograd held at once for the
  backward pass (saved-tensor hooks; parameters not counted). Once with UniCL, where chunks are a
  gradient cache, and once with a classifier's cross-entropy, where they are accumulated.

With fewer ``--images`` the last part is faster and its bytes say less: the loss's share grows.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
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
from florence.data.classes import ClassBatch
from florence.distributed.engines import make_engine
from florence.distributed.objective import Objective
from florence.distributed.parameter_rules import ParameterRule
from florence.distributed.world import World
from florence.losses.contrastive import ContrastiveObjective
from florence.losses.cross_entropy import CrossEntropyObjective
from florence.models.image import CoSwin
from florence.models.two_tower import TwoTower, build_model, no_decay_names
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
        self.num_samples = len(batch)
        self.dataloader = self

    def set_epoch(self, epoch: int) -> None:
        """Nothing is shuffled."""

    def __iter__(self) -> Any:
        yield self._batch.images, self._batch.input_ids


class OpenClipContract(nn.Module):
    """Our towers behind the forward that open_clip's trainer calls."""

    def __init__(self, model: TwoTower) -> None:
        super().__init__()
        self.model = model
        self.logit_scale = model.logit_scale

    def forward(self, images: Tensor, input_ids: Tensor) -> dict[str, Tensor]:
        u, v, logit_scale = self.model(images, input_ids)
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
        batch_size=len(batch),
        log_every_n_steps=1,
        wandb=False,
    )
    loss, data = open_clip.ClipLoss(), {"train": OneBatch(batch)}

    def step() -> None:
        train_one_epoch(model, data, loss, 0, optimizer, None, None, None, arguments)

    return step


class OurStep:
    """One optimizer step by the torch engine, under the rules of a stage that trains."""

    def __init__(
        self, model: nn.Module, objective: Objective[Any], batch: Any, chunks: int = 1
    ) -> None:
        settings = Pretrain(
            data="none",
            batch_size=len(batch),
            steps=1_000,
            optimizer=OPTIMIZER,
            gradient_cache_chunks=chunks,
        )
        self.model = model
        self._engine = make_engine(
            EngineKind.TORCH, model, settings, objective, World(), rules=rules_of(model)
        )
        self._batch = batch

    def __call__(self) -> None:
        result = self._engine.step(self._batch, lr=OPTIMIZER.lr)
        assert math.isfinite(result.loss)


def rules_of(model: nn.Module) -> list[ParameterRule]:
    """No decay where there is none in training, and a bounded temperature where there is one."""
    rules = [ParameterRule(pattern=name, weight_decay=0.0) for name in no_decay_names(model)]
    if hasattr(model, "logit_scale"):
        largest = math.log(ContrastiveLoss().max_scale)
        rules.append(ParameterRule(pattern="logit_scale", maximum=largest))
    return rules


def pair_step(architecture: Architecture, batch: TinyBatch, chunks: int = 1) -> OurStep:
    """A step of pretraining."""
    model = build_model(architecture, seed=0)
    return OurStep(model, ContrastiveObjective(ContrastiveLoss()), batch, chunks)


def class_step(architecture: Architecture, batch: ClassBatch, chunks: int = 1) -> OurStep:
    """A step of a classifier of 1,000 classes on the image tower alone."""
    model = CoSwin(architecture.image, 1_000)
    model.reset_parameters(torch.Generator().manual_seed(0))
    return OurStep(model, CrossEntropyObjective(label_smoothing=0.1), batch, chunks)


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


def classed(batch: TinyBatch) -> ClassBatch:
    """The images of a batch with a class each, none of them mixed."""
    labels, keys = batch.labels % 1_000, tuple(map(str, range(len(batch))))
    return ClassBatch(
        keys=keys,
        broken=(),
        images=batch.images,
        labels=labels,
        partners=labels,
        shares=torch.ones(len(batch)),
    )


def report_chunks(name: str, plain: OurStep, chunked: OurStep, rounds: int) -> None:
    """Print what 8 chunks cost in time and save in bytes."""
    median, best = ratio(plain, chunked, rounds)
    print(f"{name}, 8 chunks, time over plain:  {median:.2f} (best steps {best:.2f})")
    before = peak_saved_bytes(plain.model, plain)
    after = peak_saved_bytes(chunked.model, chunked)
    print(
        f"{name}, 8 chunks, bytes over plain: {after / before:.3f} "
        f"({after / 2**20:.0f} of {before / 2**20:.0f} MiB)"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description="Training steps beside open_clip's trainer.")
    parser.add_argument("--rounds", type=int, default=4, help="steps of either side")
    parser.add_argument("--images", type=int, default=128, help="samples of a step in chunks")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    large, small = full_context(4, 224), full_context(8, 112)

    model = open_clip_swin_t()
    counts = [sum(p.numel() for p in m.parameters()) for m in (model, build_model(SWIN_T, seed=0))]
    print(f"parameters: open_clip {counts[0]:,}, ours {counts[1]:,}")
    median, best = ratio(pair_step(SWIN_T, large), open_clip_step(model, large), options.rounds)
    print(f"samples/s over open_clip, its own Swin-T:  {median:.2f} (best steps {best:.2f})")

    theirs = open_clip_step(OpenClipContract(build_model(SMALL, seed=0)), small)
    median, best = ratio(pair_step(SMALL, small), theirs, options.rounds)
    print(f"samples/s over open_clip, our towers:      {median:.2f} (best steps {best:.2f})")

    batch = full_context(options.images, 112)
    plain, cached = pair_step(SMALL, batch), pair_step(SMALL, batch, chunks=8)
    report_chunks("gradient cache", plain, cached, options.rounds)
    images = classed(batch)
    plain, accumulated = class_step(SMALL, images), class_step(SMALL, images, chunks=8)
    report_chunks("gradient accumulation", plain, accumulated, options.rounds)


if __name__ == "__main__":
    main()
