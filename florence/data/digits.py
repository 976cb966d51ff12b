"""The built-in data: 1,797 scanned digits, written as an ordinary user's WebDataset shards.

The scans are UCI's "Optical Recognition of Handwritten Digits" test set as scikit-learn ships it:
8x8 pixels with 17 grey levels, in the order of the people who wrote them. The first 1,400 are for
training and the last 397 are held out, so those were written by other hands.
"""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from florence.config.storage import S3Settings
from florence.data.hashing import mix
from florence.data.indexing import index_data
from florence.data.shard_writer import write_shard
from florence.errors import ConfigurationError
from florence.storage import open_storage

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TRAIN_COUNT = 1_400
SAMPLES_PER_SHARD = 350
SPLITS = ("train", "test")
_LEVELS = 16

PHRASES = (
    "the digit {}",
    "a handwritten {}",
    "the number {} on paper",
)
SENTENCES = (
    "This is the digit {}.",
    "Somebody has written the number {} by hand.",
    "A small grey scan shows a handwritten {}.",
)


def caption(index: int, word: str) -> str:
    """The caption of a scan: a pure function of its index.

    A third each are one word, phrases and sentences, so that short texts, shared texts and the
    stage without short texts all occur for every class.
    """
    draw = mix(index, 0xD161)
    if draw % 3 == 0:
        return word
    choices = PHRASES if draw % 3 == 1 else SENTENCES
    return choices[(draw >> 16) % len(choices)].format(word)


def scanned_digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """All scans in their order: ink (n, 8, 8) in [0, 1], and what each shows, (n,)."""
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    return pixels.reshape(-1, 8, 8) / _LEVELS, classes.astype(np.int64)


def write_digits(out: str, s3: S3Settings | None = None, *, side: int = 32) -> dict[str, int]:
    """Write the splits ``train`` and ``test`` under a folder or ``s3://`` prefix.

    Args:
        out: where; the shards are ``train/digits-000000.tar`` and so on, each split with an index.
        side: side of the written images in pixels; the 8x8 scans are enlarged bicubically.

    Returns:
        The number of samples by split.
    """
    from sklearn.datasets import load_digits

    if not 8 <= side <= 1024:
        raise ConfigurationError(f"side={side}: give 8 to 1024 pixels")
    pixels, classes = load_digits(return_X_y=True)
    scans = pixels.reshape(-1, 8, 8)
    parts = {"train": range(TRAIN_COUNT), "test": range(TRAIN_COUNT, len(scans))}
    for split, indices in parts.items():
        folder = f"{out.rstrip('/') or '/'}/{split}"
        storage = open_storage(folder, s3)
        for number, start in enumerate(range(0, len(indices), SAMPLES_PER_SHARD)):
            chosen = indices[start : start + SAMPLES_PER_SHARD]
            write_shard(
                storage,
                f"digits-{number:06d}.tar",
                (_sample(i, scans[i], int(classes[i]), side) for i in chosen),
            )
        index_data(folder, s3)
    return {split: len(indices) for split, indices in parts.items()}


def _sample(index: int, scan: NDArray[Any], digit: int, side: int) -> tuple[str, dict[str, bytes]]:
    image = _png(scan, side)
    text = caption(index, WORDS[digit])
    meta = {
        "caption": text,
        "query": WORDS[digit],
        "width": side,
        "height": side,
        "sha256": hashlib.sha256(image).hexdigest(),
        "source": "scikit-learn digits",
        "index": index,
    }
    return f"{index:06d}", {
        "png": image,
        "txt": text.encode(),
        "json": json.dumps(meta).encode(),
        "cls": str(digit).encode(),
    }


def _png(scan: NDArray[Any], side: int) -> bytes:
    grey = np.rint(scan * (255 / _LEVELS)).astype(np.uint8)
    image = Image.fromarray(grey).resize((side, side), Image.Resampling.BICUBIC).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
