"""How much of a bucket each job, stage and kind of file takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from florencectl.storage.layout import owner_of

if TYPE_CHECKING:
    from florence.storage import Entry


class By(StrEnum):
    """What ``storage usage`` sums up by; each also by those before it."""

    NAMESPACE = "namespace"
    JOB = "job"
    STAGE = "stage"
    KIND = "kind"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a group of objects takes."""

    group: tuple[str, ...]
    """Namespace, folder of the job, stage and kind, as many as were asked for; empty where none."""
    objects: int
    bytes: int


def names_of(by: By) -> list[str]:
    """What groups are told apart by, the outermost first."""
    return [each.value for each in By][: list(By).index(by) + 1]


def usage(entries: Iterable[Entry], by: By = By.KIND) -> list[Usage]:
    """Number and bytes of the objects below ``artifacts.uri``, by group, in order of the names."""
    levels = len(names_of(by))
    sums: dict[tuple[str, ...], tuple[int, int]] = {}
    for entry in entries:
        owner = owner_of(entry.key)
        group = (owner.namespace, owner.folder, owner.stage, owner.kind.value)[:levels]
        objects, size = sums.get(group, (0, 0))
        sums[group] = objects + 1, size + entry.size
    return [Usage(group, *sums[group]) for group in sorted(sums)]


def documents(found: Sequence[Usage], by: By) -> list[dict[str, Any]]:
    """The groups as ``-o json`` prints them; what belongs to no job or stage has ``null``."""
    return [
        {
            **{name: value or None for name, value in zip(names_of(by), each.group, strict=True)},
            "objects": each.objects,
            "bytes": each.bytes,
        }
        for each in found
    ]
