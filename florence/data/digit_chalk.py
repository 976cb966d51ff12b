"""Single scanned digits as scenes show them, with captions: small or large, anywhere, on textures.

What is learned from scans that fill their picture does not move with a digit in a scene; what is
learned here does. Every picture is a pure function of the scans, its split and its number, and
scans of training and test pictures were written by different people.
"""

from __future__ import annotations

import json

from florence.config.storage import S3Settings
from florence.data.digit_scenes import single
from florence.data.digits import TRAIN_COUNT, WORDS, caption, scanned_digits
from florence.data.hashing import mix
from florence.data.indexing import index_data
from florence.data.shard_writer import write_shard
from florence.storage import open_storage

SIDE = 64
"""Of a picture, in pixels."""
TIMES = {"train": 4, "test": 1}
"""How often a scan is drawn, each time elsewhere."""
SAMPLES_PER_SHARD = 700
_SEED = 0xC4A1


def write_chalk(out: str, s3: S3Settings | None = None) -> dict[str, int]:
    """Write the splits ``train`` and ``test`` under a folder or ``s3://`` prefix.

    Returns:
        The number of samples by split.
    """
    scans, classes = scanned_digits()
    parts = {"train": range(TRAIN_COUNT), "test": range(TRAIN_COUNT, len(scans))}

    def sample(row: int, time: int) -> tuple[str, dict[str, bytes]]:
        seed = mix(_SEED, row, time)
        word = WORDS[int(classes[row])]
        text = caption(seed, word)
        return f"{time}-{row:06d}", {
            "jpg": single(scans[row], SIDE, seed),
            "txt": text.encode(),
            "json": json.dumps({"caption": text, "query": word}).encode(),
            "cls": str(int(classes[row])).encode(),
        }

    counts = {}
    for split, rows in parts.items():
        folder = f"{out.rstrip('/') or '/'}/{split}"
        storage = open_storage(folder, s3)
        every = [(row, time) for time in range(TIMES[split]) for row in rows]
        for number, start in enumerate(range(0, len(every), SAMPLES_PER_SHARD)):
            chosen = every[start : start + SAMPLES_PER_SHARD]
            write_shard(storage, f"chalk-{number:06d}.tar", (sample(*each) for each in chosen))
        index_data(folder, s3)
        counts[split] = len(every)
    return counts
