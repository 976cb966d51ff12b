"""Loader throughput over bare decoding: same images, decoder, crop and number of processes.

    python tests/benchmarks/bench_loader.py [--workers N] [--rounds 5] [-o json]

The bare side forks processes that decode and crop images already in memory and throw the result
away. The loader reads the same images from shards, shuffled, with texts, tokens, labels and
checksums, and hands over normalised batches. Both sides are timed from the start of their processes
to their end, in turns; the ratio of each turn's pair counts, so that other work on the machine
hits both. One processor is left to the main process by default, as in training: with as many
workers as processors, what it does to a batch (about 0.2 ms an image) takes time from them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import tarfile
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from florence.config import Augmentation, Loader, architecture_of
from florence.data.indexing import index_data
from florence.data.pairs import PairReader
from florence.data.shards import ShardSet
from florence.data.stream import ShardStream
from florence.data.transforms import train_pixels
from florence.text.templates import IMAGENET

WIDTH, HEIGHT, RESOLUTION, BATCH, PER_SHARD = 500, 375, 224, 64, 256


def photo(seed: int) -> bytes:
    """A JPEG with the detail of a photograph: noise whose amplitude falls as 1/f."""
    random = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None, :]
    falloff = 1 / np.maximum(np.hypot(rows, columns), 1 / WIDTH)
    spectrum = np.fft.rfft2(random.standard_normal((3, HEIGHT, WIDTH))) * falloff
    image = np.fft.irfft2(spectrum, (HEIGHT, WIDTH)).transpose(1, 2, 0)
    pixels = np.clip(128 + 50 * image / image.std(), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_shards(folder: Path, images: list[bytes]) -> None:
    """The images with a caption each, as indexed shards."""
    for start in range(0, len(images), PER_SHARD):
        with tarfile.open(folder / f"{start // PER_SHARD:05d}.tar", "w") as archive:
            for i, image in enumerate(images[start : start + PER_SHARD], start):
                for extension, data in (("jpg", image), ("txt", b"a photo of thing %d" % (i % 50))):
                    info = tarfile.TarInfo(f"{i:06d}.{extension}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    index_data(str(folder))


def decode_share(images: list[bytes], worker: int, workers: int, samples: int) -> None:
    """What one bare process does."""
    for i in range(worker, samples, workers):
        train_pixels(images[i % len(images)], RESOLUTION, Augmentation(), i)


def bare_seconds(images: list[bytes], workers: int, samples: int) -> float:
    """Decode and crop in processes that hand nothing over."""
    context = get_context("fork")
    start = time.perf_counter()
    processes = [
        context.Process(target=decode_share, args=(images, worker, workers, samples))
        for worker in range(workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return time.perf_counter() - start


def loader_seconds(shards: ShardSet, workers: int, samples: int) -> float:
    """The same number of samples as training batches."""
    reader = PairReader(
        resolution=RESOLUTION,
        augmentation=Augmentation(),
        templates=IMAGENET,
        context=architecture_of("coswin-t").text.context,
    )
    stream = ShardStream(shards, reader, seed=0, batch_size=BATCH, loader=Loader(workers=workers))
    start = time.perf_counter()
    with stream.batches(rank=0, size=1, start=0, stop=samples // BATCH) as batches:
        seen = sum(len(batch) for batch in batches)
    assert seen == samples
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Loader throughput over bare decoding.")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=3072, help="decoded per side and round")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    samples = options.samples // BATCH * BATCH
    images = [photo(seed) for seed in range(options.images)]
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), images)
        shards = ShardSet.open(folder)
        pairs = [
            (
                bare_seconds(images, options.workers, samples),
                loader_seconds(shards, options.workers, samples),
            )
            for _ in range(options.rounds)
        ]
    result = {
        "workers": options.workers,
        "bytesPerImage": round(statistics.mean(map(len, images))),
        "bareImagesPerSecond": round(samples / statistics.median(bare for bare, _ in pairs), 1),
        "loaderImagesPerSecond": round(samples / statistics.median(full for _, full in pairs), 1),
        "ratio": round(statistics.median(bare / full for bare, full in pairs), 3),
        "target": 0.9,
    }
    if options.output == "json":
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:22} {value}")


if __name__ == "__main__":
    main()
