"""``manifest.json``: what a folder of shards holds, so that a stage need not read every index."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from florence.data.index import SUFFIX, ShardIndex
from florence.data.statistics import Statistics
from florence.errors import DataError
from florence.storage import Entry, MissingKeyError, Storage

FORMAT = "florence-manifest"
VERSION = 1
NAME = "manifest.json"
CLASSES = "classes.json"
WORD_BINS = 16


@dataclass(frozen=True)
class ShardSummary:
    """What the order needs to know of a shard without reading its index.

    ``word_counts[w]`` images have a text of ``w`` words, the last bin ``WORD_BINS`` words or more;
    ``labelled`` images have a class number.
    """

    name: str
    size: int
    images: int
    labelled: int
    word_counts: tuple[int, ...]
    index_digest: str
    clips: int = 0
    damage: str | None = None
    """Why the shard ends early, if it does."""

    @staticmethod
    def of(index: ShardIndex) -> ShardSummary:
        """The summary of an index."""
        images = index.records[~index.is_video]
        words = np.minimum(images["words"], WORD_BINS)
        return ShardSummary(
            name=index.shard,
            size=index.size,
            images=len(images),
            labelled=int((images["class_index"] >= 0).sum()),
            word_counts=tuple(np.bincount(words, minlength=WORD_BINS + 1).tolist()),
            index_digest=index.digest(),
            clips=len(index.records) - len(images),
            damage=index.damage,
        )

    def wire(self) -> dict[str, Any]:
        """The summary as JSON values."""
        return {
            "name": self.name,
            "size": self.size,
            "images": self.images,
            "clips": self.clips,
            "labelled": self.labelled,
            "wordCounts": list(self.word_counts),
            "indexDigest": self.index_digest,
            "damage": self.damage,
        }


def manifest_bytes(statistics: Statistics, summaries: Iterable[ShardSummary]) -> bytes:
    """``manifest.json``, a shard on a line."""
    head = {"format": FORMAT, "version": VERSION, "statistics": statistics.wire()}
    shards = ",\n  ".join(json.dumps(summary.wire()) for summary in summaries)
    return f'{json.dumps(head, indent=1)[:-2]},\n "shards": [\n  {shards}\n ]\n}}\n'.encode()


def read_manifest(storage: Storage) -> dict[str, ShardSummary] | None:
    """What ``manifest.json`` lists by shard; None without one, or when it is another version's.

    Shards of which it does not say whether they are damaged, though they may be, are left out.

    Raises:
        DataError: it is damaged.
    """
    try:
        document = json.loads(storage.read(NAME))
        if document["format"] != FORMAT or document["version"] != VERSION:
            return None
        return {
            shard["name"]: ShardSummary(
                name=shard["name"],
                size=shard["size"],
                images=shard["images"],
                labelled=shard["labelled"],
                word_counts=tuple(shard["wordCounts"]),
                index_digest=shard["indexDigest"],
                # Manifests were written before clips and damage were known.
                clips=shard.get("clips", 0),
                damage=shard.get("damage"),
            )
            for shard in document["shards"]
            if "damage" in shard or not document["statistics"]["problems"]
        }
    except MissingKeyError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{storage.url(NAME)} is not a manifest ({type(error).__name__}): "
            "run 'florencectl data index' again"
        ) from error


def read_index(storage: Storage, entry: Entry) -> ShardIndex | None:
    """The index beside a shard; None when there is none or the shard's size is another by now."""
    key = entry.key + SUFFIX
    try:
        index = ShardIndex.from_bytes(storage.read(key), entry.key, storage.url(key))
    except MissingKeyError:
        return None
    return index if index.size == entry.size else None


def read_class_names(storage: Storage) -> tuple[str, ...] | None:
    """The names of the classes 0, 1, … from ``classes.json``, a JSON list; None without one.

    Raises:
        DataError: it is not a list of different names.
    """
    try:
        names = json.loads(storage.read(CLASSES))
    except MissingKeyError:
        return None
    except ValueError:
        names = None
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not known or len(set(names)) < len(names):
        raise DataError(
            f"{storage.url(CLASSES)} is not a JSON list of different class names: correct or "
            "remove it"
        )
    return tuple(names)
