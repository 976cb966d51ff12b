"""Memory and time of ``florencectl data index`` over many samples.

    python tests/benchmarks/bench_index.py [--samples 2000000] [-o json]

What grows with a data set is what one process keeps of all shards, so the shards are made of
nothing: each has the index of 10,000 samples with distinct texts and queries beside it, which is
taken as it stands. Reading real shards costs the time of reading and tokenizing them on top.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from florence.data.index import RECORD, ShardIndex
from florence.data.indexing import index_data

PER_SHARD = 10_000


def write_indexes(folder: Path, samples: int) -> None:
    """Empty shards with whole indexes."""
    random = np.random.default_rng(0)
    for shard in range(samples // PER_SHARD):
        path = folder / f"{shard:05d}.tar"
        path.write_bytes(bytes(1024))
        records = np.zeros(PER_SHARD, RECORD)
        records["words"], records["tokens"], records["class_index"] = 5, 7, -1
        for name in ("label", "exact_label", "query"):
            records[name] = random.integers(-(2**62), 2**62, PER_SHARD)
        keys = tuple(f"{shard:05d}{i:04d}" for i in range(PER_SHARD))
        index = ShardIndex(path.name, 1024, path.stat().st_mtime, records, keys)
        path.with_name(f"{path.name}.idx").write_bytes(index.to_bytes())


def peak_mib() -> float:
    """The most memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of indexing over many samples.")
    parser.add_argument("--samples", type=int, default=2_000_000)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_indexes(Path(folder), options.samples)
        before, start = peak_mib(), time.perf_counter()
        found = index_data(folder).statistics
        seconds = time.perf_counter() - start
    assert found.unique_texts == found.images == options.samples // PER_SHARD * PER_SHARD
    added = peak_mib() - before
    result = {
        "samples": found.images,
        "seconds": round(seconds, 1),
        "peakMiB": round(before + added),
        "addedMiB": round(added),
        "addedBytesPerSample": round(added * 2**20 / found.images, 1),
    }
    if options.output == "json":
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:22} {value}")


if __name__ == "__main__":
    main()
