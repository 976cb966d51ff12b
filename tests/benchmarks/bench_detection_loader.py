"""Throughput of the detection loader over bare decode and resize: same images, sizes, processes.

    python tests/benchmarks/bench_detection_loader.py [--workers N] [--rounds 5] [-o json]

The bare side forks processes that decode JPEGs already in memory, resize them to the sizes that
the loader would draw, and throw the result away. The loader reads the same images from shards,
shuffled, with records of boxes, checksums and mirroring, moves the boxes along and hands over
batches of uint8 images with targets. Both sides are timed in turns from the start of their
processes to their end; the ratio of each turn's pair counts, so that other work on the machine hits
both.
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
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from florence.config import Loader
from florence.data.boxes import AnnotatedImage, Annotation
from florence.data.hashing import uniforms
from florence.data.indexing import index_data
from florence.data.shards import Need, ShardSet
from florence.data.vocabularies import NAME, Vocabulary, vocabularies_bytes
from florence.tasks.detection.augment import draw_view
from florence.tasks.detection.augmentation import DetectionAugmentation
from florence.tasks.detection.objects import ObjectReader
from florence.tasks.detection.stream import detection_stream

WIDTH, HEIGHT, BATCH, PER_SHARD, BOXES = 640, 480, 16, 128, 7
CLASSES = tuple(f"thing {number}" for number in range(80))
AUGMENTATION = DetectionAugmentation(short_side_min=480, short_side_max=800, max_side=1333)


def photo(seed: int) -> bytes:
    """A JPEG of COCO's size with the detail of a photograph: noise that falls as 1/f."""
    random = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None, :]
    falloff = 1 / np.maximum(np.hypot(rows, columns), 1 / WIDTH)
    spectrum = np.fft.rfft2(random.standard_normal((3, HEIGHT, WIDTH))) * falloff
    image = np.fft.irfft2(spectrum, (HEIGHT, WIDTH)).transpose(1, 2, 0)
    pixels = np.clip(128 + 50 * image / image.std(), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def record(number: int) -> bytes:
    """As many boxes as COCO's images have in the mean."""
    random = np.random.default_rng(number)
    corners = random.uniform(0, (WIDTH - 100, HEIGHT - 100), (BOXES, 2))
    boxes = tuple(
        Annotation(bbox=(x, y, 80.0, 90.0), category=CLASSES[random.integers(80)])
        for x, y in corners.tolist()
    )
    image = AnnotatedImage(image_id=number, width=WIDTH, height=HEIGHT, source="coco", boxes=boxes)
    return json.dumps(image.wire()).encode()


def write_shards(folder: Path, images: Sequence[bytes]) -> None:
    """The images with their boxes, as indexed shards."""
    for start in range(0, len(images), PER_SHARD):
        with tarfile.open(folder / f"{start // PER_SHARD:05d}.tar", "w") as archive:
            for i, image in enumerate(images[start : start + PER_SHARD], start):
                for extension, data in (("jpg", image), ("json", record(i))):
                    info = tarfile.TarInfo(f"{i:06d}.{extension}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    (folder / NAME).write_bytes(vocabularies_bytes({"coco": Vocabulary(CLASSES)}))
    index_data(str(folder))


def decode_share(images: Sequence[bytes], worker: int, workers: int, samples: int) -> None:
    """What one bare process does."""
    for i in range(worker, samples, workers):
        size = draw_view(WIDTH, HEIGHT, AUGMENTATION, uniforms(i)).size
        image = Image.open(io.BytesIO(images[i % len(images)])).convert("RGB")
        np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def bare_seconds(images: Sequence[bytes], workers: int, samples: int) -> float:
    """Decode and resize in processes that hand nothing over."""
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
    """The same number of images as training batches."""
    objects = ObjectReader(CLASSES, {"coco": Vocabulary(CLASSES)})
    stream = detection_stream(
        shards, objects, AUGMENTATION, seed=0, batch_size=BATCH, loader=Loader(workers=workers)
    )
    start = time.perf_counter()
    with stream.batches(rank=0, size=1, start=0, stop=samples // BATCH) as batches:
        seen = sum(len(batch) for batch in batches)
    assert seen == samples
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Detection loader over bare decode and resize.")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--samples", type=int, default=1024, help="decoded per side and round")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    samples = options.samples // BATCH * BATCH
    images = [photo(seed) for seed in range(options.images)]
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), images)
        shards = ShardSet.open(folder, need=Need.IMAGE)
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
