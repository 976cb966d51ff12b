"""Writing what stays of a shard, and the list of what does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from florence.curation.measure import Reason, with_annotations
from florence.data.archive import Archive
from florence.data.shard_writer import ShardFile
from florence.errors import DataError
from florence.storage import Entry, Storage

DROPPED = "dropped/"


@dataclass(frozen=True)
class ShardDecisions:
    """What is to become of one shard's samples.

    Attributes:
        entry: the shard.
        records: as measured.
        reasons: uint8 by sample.
        others: by sample the name of what it is a copy of, "" for none.
    """

    entry: Entry
    records: NDArray[Any]
    reasons: NDArray[np.uint8]
    others: tuple[str, ...]


def dropped_key(shard: str) -> str:
    """Where the list of what was dropped from a shard is."""
    return f"{DROPPED}{shard.removesuffix('.tar')}.jsonl"


def write_survivors(
    source: Storage, target: Storage, decided: ShardDecisions, *, annotate: bool
) -> None:
    """Write the shard under its own name, if anything stays, and then its list of the dropped.

    Every member of a sample that stays is copied; its ``.json`` gains facts when ``annotate``.

    Raises:
        DataError: the shard is not the one that was measured.
    """
    entry = decided.entry
    archive = Archive(source, entry.key, entry.size)
    lines: list[bytes] = []
    row = -1
    with ShardFile() as shard:
        for row, sample in enumerate(archive.samples()):
            if row >= len(decided.reasons):
                break
            if decided.reasons[row] != Reason.KEPT:
                lines.append(_line(sample.key, row, decided))
                continue
            members = {ext: archive.read(member) for ext, member in sample.members.items()}
            if annotate:
                members["json"] = with_annotations(members.get("json"), decided.records[row])
            shard.add(sample.key, members)
        if row + 1 != len(decided.reasons):
            raise DataError(
                f"{source.url(entry.key)} changed while it was curated: run the command again "
                "with another OUT"
            )
        if shard.samples:
            shard.store(target, entry.key)
    target.write(dropped_key(entry.key), b"".join(lines))


def read_dropped(target: Storage, shard: str) -> Iterator[dict[str, Any]]:
    """What was dropped from a shard: ``key``, ``row``, ``reason`` and ``detail`` of each."""
    for line in target.read(dropped_key(shard)).splitlines():
        yield json.loads(line)


def _line(key: str, row: int, decided: ShardDecisions) -> bytes:
    reason = Reason(decided.reasons[row])
    dropped = {
        "key": key,
        "row": row,
        "reason": reason.label,
        "detail": _detail(reason, decided.records[row], decided.others[row]),
    }
    return (json.dumps(dropped, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _detail(reason: Reason, record: Any, other: str) -> str:
    if reason in (Reason.SMALL, Reason.ASPECT):
        return f"{record['width']}x{record['height']} pixels"
    if reason is Reason.WORDS:
        return f"{record['words']} words"
    if reason is Reason.IRRELEVANT:
        return f"cosine {record['relevance']:.3f}"
    return f"like {other}" if other else ""
