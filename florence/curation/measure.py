"""What curation needs to know of each sample, from one pass over a shard."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from florence.curation.perceptual_hash import perceptual_hash
from florence.curation.settings import Curation
from florence.data.archive import Archive, RawSample
from florence.data.images import BrokenImageError, load_image, open_image
from florence.data.members import parse_json
from florence.storage import Entry, MissingKeyError, Storage
from florence.text.normalisation import text_label, word_count

# A JPEG may be decoded at a fraction of its size as long as its shorter side keeps so many pixels;
# a constant, because another scale could change a bit of the hash.
_HASHED_SIDE = 256


class Reason(IntEnum):
    """Why a sample is dropped, in the order in which the filters are applied."""

    KEPT = 0
    BROKEN = 1
    SMALL = 2
    ASPECT = 3
    WORDS = 4
    IRRELEVANT = 5
    EVALUATION = 6
    EXACT = 7
    NEAR = 8
    QUERY = 9

    @property
    def label(self) -> str:
        """The reason as reports call it."""
        return _LABELS[self]


_LABELS = {
    Reason.KEPT: "kept",
    Reason.BROKEN: "broken image",
    Reason.SMALL: "too small",
    Reason.ASPECT: "too long or wide",
    Reason.WORDS: "words out of range",
    Reason.IRRELEVANT: "text not relevant",
    Reason.EVALUATION: "in an evaluation set",
    Reason.EXACT: "exact duplicate",
    Reason.NEAR: "near duplicate",
    Reason.QUERY: "beyond the query's cap",
}

RECORD = np.dtype(
    [
        ("digest_a", "<u8"),  # of the image's bytes, 128 bits in two halves
        ("digest_b", "<u8"),
        ("phash", "<u8"),  # 0 unless the sample passed the filters before relevance
        ("query", "<i8"),  # hash of the canonical query; 0: none
        ("width", "<u4"),
        ("height", "<u4"),
        ("words", "<u4"),
        ("relevance", "<f4"),  # cosine; NaN: not judged
        ("reason", "u1"),
    ]
)

Score = Callable[[Iterable[tuple[Image.Image, str]]], list[float]]
"""The cosine of every image and its text; images are of any size, in RGB."""


@dataclass(frozen=True)
class Measured:
    """The records of a shard's samples in order."""

    records: NDArray[Any]

    def to_bytes(self) -> bytes:
        """As a file."""
        buffer = io.BytesIO()
        np.save(buffer, self.records, allow_pickle=False)
        return buffer.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> Measured:
        """From a file that :meth:`to_bytes` made."""
        return Measured(np.load(io.BytesIO(data), allow_pickle=False))


def measure_shard(
    storage: Storage, entry: Entry, settings: Curation, score: Score | None = None
) -> Measured:
    """Measure every sample of a shard; what an earlier filter drops is not decoded further.

    ``score`` is asked only for samples that have a text and passed all other filters of theirs.
    """
    archive = Archive(storage, entry.key, entry.size)
    records: list[tuple[Any, ...]] = []
    judged: list[int] = []

    def pairs() -> Iterator[tuple[Image.Image, str]]:
        for sample in archive.samples():
            record, image, text = _measure(archive, sample, settings, decoded=score is not None)
            if image is not None and text:
                judged.append(len(records))
                records.append(record)
                yield image, text
            else:
                records.append(record)

    if score is None:
        for _ in pairs():
            pass
        return Measured(np.array(records, RECORD))
    cosines = score(pairs())
    result = np.array(records, RECORD)
    result["relevance"][judged] = cosines
    assert settings.min_relevance is not None
    low = result["relevance"] < np.float32(settings.min_relevance)  # NaN is not lower
    result["reason"][low & (result["reason"] == Reason.KEPT)] = Reason.IRRELEVANT
    return Measured(result)


def measure_images(storage: Storage, keys: Sequence[str]) -> Measured:
    """The hashes of image files; one that cannot be read is BROKEN."""
    records = []
    for key in keys:
        try:
            data = storage.read(key)
            record = (*_digest(data), _hash(data)[0], 0, 0, 0, 0, math.nan, Reason.KEPT)
        except (BrokenImageError, MissingKeyError):
            record = (0, 0, 0, 0, 0, 0, 0, math.nan, Reason.BROKEN)
        records.append(record)
    return Measured(np.array(records, RECORD))


def _measure(
    archive: Archive, sample: RawSample, settings: Curation, *, decoded: bool
) -> tuple[tuple[Any, ...], Image.Image | None, str]:
    """A sample's record, and its image when it passed and is to be judged, and its text."""
    meta = _meta(archive, sample)
    text = sample_text(archive, sample, meta)
    words = word_count(text)
    query = meta.get("query")
    hashed_query = text_label(query) if isinstance(query, str) and word_count(query) else 0
    member = sample.image
    data = archive.read(member) if member is not None else b""
    width = height = phash = 0
    image = None
    try:
        width, height = open_image(data).size
        reason = _reason(width, height, words, settings)
        if reason is Reason.KEPT:
            phash, image = _hash(data)
            if decoded and image.size != (width, height):
                image = load_image(open_image(data))
    except BrokenImageError:
        reason = Reason.BROKEN
    record = (
        *_digest(data),
        phash,
        hashed_query,
        width,
        height,
        words,
        math.nan,
        reason,
    )
    return record, image if decoded and reason is Reason.KEPT else None, text if words else ""


def _reason(width: int, height: int, words: int, settings: Curation) -> Reason:
    shorter, longer = sorted((width, height))
    if shorter < settings.min_side:
        return Reason.SMALL
    if longer > settings.max_aspect * shorter:
        return Reason.ASPECT
    most = settings.max_words
    if words < settings.min_words or (most is not None and words > most):
        return Reason.WORDS
    return Reason.KEPT


def _hash(data: bytes) -> tuple[int, Image.Image]:
    image = open_image(data)
    scale = _HASHED_SIDE / min(image.size)
    width, height = image.size
    image = load_image(image, (math.ceil(width * scale), math.ceil(height * scale)))
    return perceptual_hash(image), image


def _digest(data: bytes) -> tuple[int, int]:
    digest = hashlib.blake2b(data, digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def _meta(archive: Archive, sample: RawSample) -> dict[str, Any]:
    member = sample.members.get("json")
    if member is None:
        return {}
    try:
        return parse_json(archive.read(member))
    except ValueError:
        return {}


def sample_text(archive: Archive, sample: RawSample, meta: dict[str, Any]) -> str:
    """The text that training would read: ``.txt``, else the json's caption, else a class name."""
    if "txt" in sample.members:
        return archive.read(sample.members["txt"]).decode(errors="replace").strip()
    if isinstance(meta.get("caption"), str):
        return str(meta["caption"]).strip()
    if "cls" in sample.members:
        name = archive.read(sample.members["cls"]).decode(errors="replace").strip()
        return "" if name.removeprefix("-").isdecimal() else name
    return ""


def facts(record: Any) -> dict[str, Any]:
    """What of a record a kept sample's ``.json`` gets."""
    found: dict[str, Any] = {
        "width": int(record["width"]),
        "height": int(record["height"]),
        "phash": f"{int(record['phash']):016x}",
    }
    if not math.isnan(record["relevance"]):
        found["relevance"] = round(float(record["relevance"]), 4)
    return found


def with_annotations(described: bytes | None, record: Any) -> bytes:
    """A ``.json`` member with the record's facts added; one that is broken stays as it is."""
    try:
        meta = parse_json(described) if described is not None else {}
    except ValueError:
        return described or b""
    return json.dumps({**meta, **facts(record)}, ensure_ascii=False).encode(
        "utf-8", "backslashreplace"
    )
