"""How fast the image tower trains, beside timm's Swin-T; with CUDA also the whole CoSwin-H model.

    python tests/benchmarks/bench_image_tower.py                 # ratio to timm, eager
    python tests/benchmarks/bench_image_tower.py --compile       # and compiled
    python tests/benchmarks/bench_image_tower.py --device cuda   # CoSwin-H: pairs/s, MFU, memory

Without ``--device`` it takes CUDA where there is any.

Variants take turns within every round, so that whatever else the machine does meets all of them;
the ratio is the median over rounds of the ratio within a round. With one thread on the CPU the
clock is the process's own time, which does not run while others have the core.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))
from florence.config import (
    Architecture,
    Attention,
    Embedding,
    ImageTower,
    Precision,
    architecture_of,
)
from florence.models.compilation import compile_blocks
from florence.models.image import CoSwin
from florence.models.two_tower import TwoTower
from florence.planner.speed import gpu_named
from tests.benchmarks.cuda_steps import measured

Step = Callable[[], None]


def swin_tiny(attention: Attention, classes: int) -> CoSwin:
    """timm's ``swin_tiny_patch4_window7_224``, as ours."""
    config = ImageTower(
        width=96,
        depths=(2, 2, 6, 2),
        heads=(3, 6, 12, 24),
        embedding=Embedding.SWIN,
        attention=attention,
    )
    return CoSwin(config, classes)


def training_step(model: nn.Module, images: Tensor) -> Step:
    """Forward and backward of a sum; gradients are made anew each time."""
    model.train()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(images).sum().backward()

    return step


def evaluation_step(model: nn.Module, images: Tensor) -> Step:
    """Forward without gradients."""

    def step() -> None:
        model.eval()
        with torch.no_grad():
            model(images)
        model.train()

    return step


def interleaved(
    steps: dict[str, Step], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of every variant in every round, after one round of warming up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        names = list(steps) if number % 2 else list(reversed(steps))
        for name in names:
            start = clock()
            steps[name]()
            if number:
                times[name].append(clock() - start)
    return times


def report(title: str, times: dict[str, list[float]], baseline: str, images: int) -> None:
    """Print images per second and the ratio to the baseline, a median over rounds."""
    print(f"\n{title}")
    for name, seconds in times.items():
        ratios = [base / own for base, own in zip(times[baseline], seconds, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"  {name:24} {images / statistics.median(seconds):8.2f} images/s   "
            f"{middle:5.3f} x {baseline} (quartiles {low:.3f} to {high:.3f})"
        )


def compare_with_timm(arguments: argparse.Namespace) -> None:
    """Swin-T of both libraries, the same sizes, the same images."""
    import timm

    models: dict[str, nn.Module] = {
        "timm": timm.create_model(
            "swin_tiny_patch4_window7_224",
            img_size=arguments.size,
            num_classes=1000,
            drop_path_rate=0.0,
        )
    }
    for attention in arguments.attention:
        models[f"florence {attention.value}"] = swin_tiny(attention, 1000)
    models = {name: model.to(arguments.device) for name, model in models.items()}
    images = torch.randn(
        arguments.batch, 3, arguments.size, arguments.size, device=arguments.device
    )
    clock = _clock(arguments.device, arguments.threads)
    kinds = {"eager": models}
    if arguments.compile:
        kinds["compiled"] = {
            name: torch.compile(model, fullgraph=name != "timm") for name, model in models.items()
        }
    for kind, variants in kinds.items():
        for purpose, make in (("training", training_step), ("evaluation", evaluation_step)):
            steps = {name: make(model, images) for name, model in variants.items()}
            times = interleaved(steps, arguments.rounds, clock)
            title = f"Swin-T {purpose}, {kind}, {arguments.batch} x {arguments.size} px, fp32"
            report(f"{title}, {arguments.device}", times, "timm", arguments.batch)


def multiply_adds(architecture: Architecture, resolution: int, window: int) -> int:
    """Multiply-adds of one pair's forward pass, without norms and pointwise functions."""
    image, text, total = architecture.image, architecture.text, 0
    for stage, depth in enumerate(image.depths):
        kernel, channels = (7, 3) if stage == 0 else (3, image.width << (stage - 1))
        width, side = image.width << stage, resolution >> (stage + 2)
        attended = min(window, side) ** 2
        block = 12 * width**2 + 2 * attended * width
        total += side**2 * (kernel**2 * channels * width + depth * block)
    per_token = 4 * text.width**2 + 2 * text.width * text.hidden + 2 * text.context * text.width
    return total + text.context * text.layers * per_token


def huge_variants(arguments: argparse.Namespace) -> Iterator[tuple[str, TwoTower]]:
    """CoSwin-H with every implementation, eager and with compiled blocks."""
    architecture = architecture_of(arguments.preset)
    for compiled in (False, True):
        for attention in arguments.attention:
            image = architecture.image.model_copy(update={"attention": attention})
            with torch.device("cuda"):
                model = TwoTower(
                    architecture.model_copy(update={"image": image}), window=arguments.window
                )
            if compiled:
                compile_blocks(model)
            yield f"{attention.value}, {'compiled' if compiled else 'eager'}", model
            del model
            torch.cuda.empty_cache()


def measure_pairs(model: TwoTower, batch: int, arguments: argparse.Namespace) -> tuple[float, int]:
    """Seconds of a median bf16 training step of ``batch`` pairs, and its peak memory in bytes."""
    images = torch.randn(batch, 3, arguments.size, arguments.size, device="cuda")
    vocabulary, context = model.architecture.text.vocabulary, model.architecture.text.context
    ids = torch.randint(1, vocabulary, (batch, context), device="cuda")

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            u, v, scale = model(images, ids)
        assert u is not None
        assert v is not None
        labels = torch.arange(batch, device="cuda")
        nn.functional.cross_entropy(scale.exp() * u @ v.t(), labels).backward()

    return measured(step, arguments.rounds)


def huge_on_cuda(arguments: argparse.Namespace) -> None:
    """Pairs per second, model FLOPs utilisation and peak memory, by micro-batch."""
    device = torch.cuda.get_device_name()
    peak = gpu_named(device.replace(" ", "-")).peak(Precision.BF16)
    cost = 6 * multiply_adds(architecture_of(arguments.preset), arguments.size, arguments.window)
    print(f"\n{arguments.preset} training, bf16, {arguments.size} px, window {arguments.window}")
    print(f"  {device}, {cost / 1e9:.1f} GFLOP per pair (forward and backward, nothing recomputed)")
    for name, model in huge_variants(arguments):
        for batch in arguments.micro_batch:
            try:
                seconds, memory = measure_pairs(model, batch, arguments)
            except torch.cuda.OutOfMemoryError:
                print(f"  {name:16} batch {batch:4}   out of memory")
                model.zero_grad(set_to_none=True)
                torch.cuda.empty_cache()
                continue
            rate = batch / seconds
            print(
                f"  {name:16} batch {batch:4} {rate:8.1f} pairs/s   "
                f"MFU {rate * cost / peak:6.1%}   "
                f"peak {memory / 2**30:6.1f} GiB"
            )


def _clock(device: str, threads: int = 1) -> Callable[[], float]:
    if device == "cpu":
        return time.process_time if threads == 1 else time.perf_counter

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return clock


def main() -> None:
    """Parse the command line and run what the device allows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    found = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cpu", "cuda"], default=found)
    parser.add_argument("--batch", type=int, default=4, help="images per step beside timm")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--window", type=int, default=7, help="side of CoSwin-H's windows")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    parser.add_argument("--preset", default="coswin-h", help="the model measured with CUDA")
    parser.add_argument("--micro-batch", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument(
        "--attention", type=Attention, nargs="+", default=list(Attention), choices=list(Attention)
    )
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device is visible here")
    if arguments.compile and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        parser.error("--compile: torch.compile needs a C++ compiler on the path")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    compare_with_timm(arguments)
    if arguments.device == "cuda":
        huge_on_cuda(arguments)


if __name__ == "__main__":
    main()
