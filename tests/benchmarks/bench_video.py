"""Video CoSwin beside torchvision's Swin3D-T, the clip loader beside bare PyAV, the planner.

    python tests/benchmarks/bench_video.py                  # everything, on the CPU
    python tests/benchmarks/bench_video.py --only tower     # or loader, planner, views, search
    python tests/benchmarks/bench_video.py --device cuda    # CoSwin-H: clips/s, MFU, memory

Sides take turns within every round and the median of the ratios of rounds counts, so that other
work on the machine meets both. On the CPU towers are timed with one thread by the process's own
time. The bare side of the loader is a loop over PyAV in as many processes: seek to the key frame
before the clip, decode to its end, keep the wanted frames as RGB, crop them. Views are those of
evaluation: four spans by three crops, whose frames are decoded once, against decoding each view.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from PIL import Image
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

sys.path.insert(0, str(Path(__file__).parents[2]))
from florence.config import (
    ActivationCheckpointing,
    Attention,
    Augmentation,
    Embedding,
    ImageTower,
    Loader,
    Precision,
    architecture_of,
)
from florence.config.video import ClipSampling, VideoPreset, VideoShape, VideoTower, Views
from florence.data.augmented_clips import AugmentedClips
from florence.data.clips import ClassClipReader
from florence.data.indexing import index_data
from florence.data.shard_writer import write_shard
from florence.data.shards import Need, ShardSet
from florence.data.stream import ShardStream
from florence.data.video.pixels import view_clips
from florence.data.video.sampling import random_span
from florence.data.video.writing import write_clip
from florence.models.compilation import compile_blocks
from florence.models.video_coswin import VideoCoSwin
from florence.planner.activations import kept_bytes, numerics, tower_units
from florence.planner.speed import gpu_named
from florence.planner.video_sizes import video_macs, video_stages
from florence.storage import open_storage
from florencectl.searching import EmbeddingIndex
from tests.benchmarks.cuda_steps import measured

WIDTH, HEIGHT, RATE, SECONDS = 340, 256, 30, 5
SAMPLING = ClipSampling(frames=16, stride=2)
SIDE, BATCH = 112, 8


def ratios(baseline: list[float], own: list[float]) -> str:
    """The median and quartiles of the ratio of each round, as speed: above 1 is faster."""
    found = [base / mine for base, mine in zip(baseline, own, strict=True)]
    low, middle, high = statistics.quantiles(found, n=4)
    return f"{middle:.3f}x (quartiles {low:.3f} to {high:.3f})"


def in_turns(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of every step in every round, after one round of warming up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name in list(steps) if number % 2 else list(reversed(steps)):
            start = time.process_time()
            steps[name]()
            if number:
                times[name].append(time.process_time() - start)
    return times


def training_step(model: nn.Module, clips: Tensor) -> Callable[[], None]:
    """Forward and backward of a sum."""
    model.train()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(clips).sum().backward()

    return step


def tower(rounds: int) -> None:
    """Swin3D-T of both libraries: equal sizes, the same clips, fp32."""
    from torchvision.models.video.swin_transformer import SwinTransformer3d

    image = ImageTower(
        width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), embedding=Embedding.SWIN
    )
    shape = VideoShape(
        tubelet=2, merge_kernel_time=1, window_frames=(8, 8, 8, 8), windows=(7, 7, 7, 7)
    )
    clips = torch.randn(1, 3, 16, SIDE, SIDE)
    theirs = SwinTransformer3d(
        patch_size=[2, 4, 4],
        embed_dim=image.width,
        depths=list(image.depths),
        num_heads=list(image.heads),
        window_size=[8, 7, 7],
        stochastic_depth_prob=0.0,
        num_classes=400,
    )
    steps = {
        "torchvision": training_step(theirs, clips),
        "ours": training_step(VideoCoSwin(image, shape, 400, drop_path=0.0), clips),
    }
    times = in_turns(steps, rounds)
    print(f"Swin3D-T, forward and backward, 16 frames of {SIDE} px, fp32, one thread, eager")
    for name, seconds in times.items():
        print(f"  {name:12} {1 / statistics.median(seconds):6.2f} clips/s")
    print(f"  ours / torchvision: {ratios(times['torchvision'], times['ours'])}")


def film(seed: int) -> bytes:
    """Five seconds of H.264 with the detail of a photograph that drifts, a key frame a second."""
    random = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(512)[:, None], np.fft.rfftfreq(512)[None, :]
    falloff = 1 / np.maximum(np.hypot(rows, columns), 1 / 512)
    image = np.fft.irfft2(np.fft.rfft2(random.standard_normal((3, 512, 512))) * falloff)
    image = np.clip(128 + 50 * image / image.std(), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    frames = (
        image[n % 250 : n % 250 + HEIGHT, n % 170 : n % 170 + WIDTH] for n in range(RATE * SECONDS)
    )
    return write_clip(frames, rate=RATE, options={"crf": "23", "g": str(RATE), "preset": "fast"})


def write_clips(folder: str, films: list[bytes]) -> None:
    """Shards of films, each with a class."""
    samples = ((f"{i:06d}", {"mp4": data, "cls": b"0"}) for i, data in enumerate(films))
    write_shard(open_storage(folder), "films.tar", samples)
    index_data(folder)


def bare_clip(data: bytes, seed: int) -> None:
    """The frames of a random span, by PyAV alone, cropped to the same size."""
    numbers = random_span(RATE * SECONDS, SAMPLING, seed)
    wanted = set(numbers.tolist())
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        step = round(1 / (RATE * float(stream.time_base or 1)))
        converter = VideoReformatter()
        container.seek(int(numbers[0]) * step, stream=stream, backward=True)
        found = 0
        for frame in container.decode(stream):
            if round((frame.pts or 0) / step) in wanted:
                colours = converter.reformat(frame, format="rgb24", threads=1)
                picture = Image.fromarray(colours.to_ndarray())
                np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
                found += 1
                if found == len(wanted):
                    return
    raise AssertionError("the film has fewer frames")


def bare_share(films: list[bytes], worker: int, workers: int, samples: int) -> None:
    """What one bare process does."""
    for i in range(worker, samples, workers):
        bare_clip(films[i % len(films)], (i * 2654435761) % 2**32)


def bare_seconds(films: list[bytes], workers: int, samples: int) -> float:
    """Decode in processes that hand nothing over."""
    context = get_context("fork")
    start = time.perf_counter()
    processes = [
        context.Process(target=bare_share, args=(films, worker, workers, samples))
        for worker in range(workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return time.perf_counter() - start


def loader_seconds(shards: ShardSet, workers: int, samples: int) -> float:
    """The same number of clips as training batches."""
    clips = AugmentedClips(resolution=SIDE, augmentation=Augmentation(), sampling=SAMPLING)
    reader = ClassClipReader(clips=clips, numbers=np.zeros(1, np.int64))
    stream = ShardStream(shards, reader, seed=0, batch_size=BATCH, loader=Loader(workers=workers))
    start = time.perf_counter()
    with stream.batches(rank=0, size=1, start=0, stop=samples // BATCH) as batches:
        seen = sum(len(batch) for batch in batches)
    assert seen == samples
    return time.perf_counter() - start


def loader(rounds: int, workers: int, samples: int) -> None:
    """Clips of training over bare decoding of as many."""
    samples = samples // BATCH * BATCH
    films = [film(seed) for seed in range(16)]
    with tempfile.TemporaryDirectory() as folder:
        write_clips(folder, films)
        shards = ShardSet.open(folder, need=Need.VIDEO)
        pairs = [
            (bare_seconds(films, workers, samples), loader_seconds(shards, workers, samples))
            for _ in range(rounds)
        ]
    bare, ours = ([pair[side] for pair in pairs] for side in (0, 1))
    print(f"Clips of 16 frames of {SIDE} px from {WIDTH} x {HEIGHT}, {workers} workers")
    print(f"  bare PyAV {samples / statistics.median(bare):7.1f} clips/s")
    print(f"  loader    {samples / statistics.median(ours):7.1f} clips/s")
    print(f"  loader / bare: {ratios(bare, ours)} (aim: 0.9)")


def planner() -> None:
    """Bytes kept for the backward pass of a clip, over what the planner says."""
    architecture = architecture_of("coswin-t")
    image = architecture.image.model_copy(update={"attention": Attention.MATH})
    shape = VideoTower().shape(image, image.window)
    frames = 8
    print(f"Kept for the backward pass, coswin-t, {frames} frames of {SIDE} px: measured / planned")
    for checkpointing in ActivationCheckpointing:
        model = VideoCoSwin(image, shape, architecture.embed_dim, checkpointing=checkpointing)
        model.train()
        kept = [saved_bytes(model, torch.randn(n, 3, frames, SIDE, SIDE)) for n in (1, 2)]
        units = tower_units(
            architecture,
            video_stages(architecture, shape, frames=frames, resolution=SIDE),
            values=3 * frames * SIDE**2,
            checkpointing=checkpointing,
            numbers=numerics(Precision.FP32, Attention.MATH, cuda=False),
        )
        print(f"  {checkpointing.value:10} {(kept[1] - kept[0]) / kept_bytes(units):.3f}")


def saved_bytes(model: nn.Module, clips: Tensor) -> int:
    """Bytes that autograd keeps of a forward pass, beside parameters and the clips."""
    known = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    known.add(clips.untyped_storage()._cdata)
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            found[storage._cdata] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = model(clips)
    del result
    return sum(found.values())


def views(rounds: int) -> None:
    """Twelve views of a film at once over the three crops of each span by themselves."""
    data = film(0)

    def apart() -> None:
        for _ in range(4 * 3):
            view_clips(data, SIDE, SAMPLING, Views(spans=1, crops=1))

    def together() -> None:
        view_clips(data, SIDE, SAMPLING, Views(spans=4, crops=3))

    times = in_turns({"apart": apart, "together": together}, rounds)
    print(f"Twelve views at once / one by one: {ratios(times['apart'], times['together'])}")


def search(rounds: int, rows: int = 1_000_000, size: int = 128) -> None:
    """Opening a file of embeddings and finding the ten nearest to one; the file is in the cache."""
    random = np.random.default_rng(0)
    embeddings = random.standard_normal((rows, size), dtype=np.float32)
    names = np.array([f"clips/{number:07d}.mp4" for number in range(rows)])
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/index.npz"
        np.savez(path, names=names, embeddings=embeddings)
        for _ in range(rounds + 1):
            start = time.perf_counter()
            found = EmbeddingIndex.open(path).search(embeddings[7], 10)
            seconds.append(time.perf_counter() - start)
            assert found[0].name == names[7]
    print(f"Search among {rows:,} x {size}: {statistics.median(seconds[1:]):.2f} s (aim: below 1)")


def huge_on_cuda(rounds: int) -> None:
    """CoSwin-H at 384 pixels, 32 frames, bf16, recomputed blocks: clips/s, MFU, peak memory."""
    architecture, frames, side = architecture_of("coswin-h"), 32, 384
    shape = VideoTower(preset=VideoPreset.PAPER).shape(architecture.image, 12)
    device = torch.cuda.get_device_name()
    peak = gpu_named(device.replace(" ", "-")).peak(Precision.BF16)
    cost = 6 * video_macs(architecture, shape, frames=frames, resolution=side)
    print(f"CoSwin-H, {frames} frames of {side} px, bf16, {device}, {cost / 1e12:.1f} TFLOP a clip")
    for compiled in (False, True):
        with torch.device("cuda"):
            model = VideoCoSwin(
                architecture.image,
                shape,
                architecture.embed_dim,
                checkpointing=ActivationCheckpointing.FULL,
            )
            clips = torch.randn(1, 3, frames, side, side)
        if compiled:
            compile_blocks(model)
        train = training_step(model, clips)

        def step(train: Callable[[], object] = train) -> None:
            with torch.autocast("cuda", dtype=torch.bfloat16):
                train()

        seconds, memory = measured(step, rounds)
        rate = 1 / seconds
        print(
            f"  {'compiled' if compiled else 'eager':9} {rate:6.2f} clips/s   MFU "
            f"{rate * cost / peak:6.1%}   peak {memory / 2**30:5.1f} GiB"
        )
        del model, train, step


def main() -> None:
    """Parse the command line and run."""
    parts = ("tower", "loader", "planner", "views", "search")
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", choices=parts, nargs="+", default=parts)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--samples", type=int, default=192, help="clips per side and round")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.device == "cuda":
        huge_on_cuda(options.rounds)
        return
    torch.set_num_threads(1)
    if "tower" in options.only:
        tower(options.rounds)
    if "loader" in options.only:
        loader(options.rounds, options.workers, options.samples)
    if "planner" in options.only:
        planner()
    if "views" in options.only:
        views(options.rounds)
    if "search" in options.only:
        search(options.rounds)


if __name__ == "__main__":
    main()
