"""Small data sets for tests: real JPEG, PNG and WebP files in real tars, written by the stdlib."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from florence.data.index import ShardIndex

Members = Mapping[str, bytes]


def picture(seed: int, width: int = 24, height: int = 20, kind: str = "PNG") -> bytes:
    """An image file of smooth noise that differs for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write files into a tar in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def write_samples(path: Path, samples: Iterable[tuple[str, Members]]) -> None:
    """Write a WebDataset shard."""
    write_tar(path, [(f"{key}.{ext}", d) for key, ms in samples for ext, d in ms.items()])


WORDS = ("cat", "dog", "a bird", "Two big red boats at sea", "one tree near the old house")


def sample(i: int, **changes: bytes | None) -> tuple[str, dict[str, bytes]]:
    """Sample ``i`` of a regular data set; ``changes`` replaces members, None removes them."""
    members: dict[str, bytes | None] = {
        "png": picture(i),
        "txt": WORDS[i % len(WORDS)].encode(),
        "json": json.dumps({"caption": "unused", "query": f"q{i % 7}"}).encode(),
        "cls": str(i % 3).encode(),
    }
    members.update(changes)
    return f"{i:05d}", {ext: data for ext, data in members.items() if data is not None}


def write_shards(folder: Path, count: int, per_shard: int) -> None:
    """``count`` regular samples as ``00000.tar``, ``00001.tar``, …"""
    for number, start in enumerate(range(0, count, per_shard)):
        chosen = range(start, min(start + per_shard, count))
        write_samples(folder / f"{number:05d}.tar", [sample(i) for i in chosen])


VERSION_1 = np.dtype(
    [
        ("offset", "<u8"), ("length", "<u4"),
        ("image", "<u4"), ("image_length", "<u4"),
        ("text", "<u4"), ("text_length", "<u4"),
        ("json", "<u4"), ("json_length", "<u4"),
        ("text_source", "<u4"), ("words", "<u4"), ("tokens", "<u4"),
        ("class_index", "<i4"), ("label", "<i8"), ("exact_label", "<i8"), ("query", "<i8"),
        ("crc", "<u4"),
    ]
)  # fmt: skip


def as_version_1(index: ShardIndex) -> bytes:
    """The index of a shard of images as version 1 wrote it."""
    records = np.zeros(len(index.records), VERSION_1)
    for name in VERSION_1.names:
        records[name] = index.records[name.replace("image", "media")]
    header = {
        "format": "florence-index",
        "version": 1,
        "shard": index.shard,
        "shardSize": index.size,
        "shardModified": index.modified,
        "count": len(records),
        "problems": [[p.member, p.reason] for p in index.problems],
    }
    keys = "\n".join(index.keys).encode()
    return json.dumps(header).encode() + b"\n" + records.tobytes() + keys
