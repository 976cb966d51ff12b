"""Where the ranks of an attempt are that does not end: who waits for whom.

Each pod tells of its own ranks (``api/termination.py``); together they name the rank that the
others wait for.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import ConfigDict

from florence.config.base import Settings, setting

LONGEST_PLACE = 120
LARGEST_RANKS = 400
MOST_GROUPS = 16
"""What a status keeps: places beyond these name no culprit any more."""
_SPANS = r"^\d{1,6}(-\d{1,6})?(,\d{1,6}(-\d{1,6})?)*$"
_TOLD = 6


class RankGroup(Settings):
    """Ranks that are at the same place."""

    model_config = ConfigDict(extra="ignore")

    ranks: str = setting(
        description="their numbers, as 0-6,9", pattern=_SPANS, max_length=LARGEST_RANKS
    )
    collective: str | None = setting(
        None, description="the collective that they wait in for others", max_length=LONGEST_PLACE
    )
    place: str | None = setting(
        None,
        description="the line of code that they are in; none where they gave no stacks",
        max_length=LONGEST_PLACE,
    )


def spans_of(ranks: Iterable[int]) -> str:
    """Numbers of ranks as a group has them: ``0-6,9``."""
    return _written((rank, rank) for rank in ranks)


def merged(groups: Iterable[RankGroup]) -> tuple[RankGroup, ...]:
    """The groups with one for each place.

    First those who wait in a collective, then those who do not, of whom the fewest first: few
    ranks apart from the others are whom the others wait for.
    """
    return tuple(_whole(groups)[:MOST_GROUPS])


def sentence(groups: Iterable[RankGroup]) -> str:
    """Who waits and who does not, in words; empty without groups.

    ``ranks 0 to 6 wait in all_reduce; rank 7 is in florence/data/shards.py:88 read``
    """
    whole = _whole(groups)
    waiting = [group for group in whole if group.collective][:_TOLD]
    apart = [group for group in whole if not group.collective][:_TOLD]
    left = sum(_count(group.ranks) for group in whole if group not in (*waiting, *apart))
    told = [_phrase(group) for group in (*waiting, *apart)]
    return "; ".join([*told, *([f"{left} more are elsewhere"] if left else [])])


def _whole(groups: Iterable[RankGroup]) -> list[RankGroup]:
    found: dict[tuple[str | None, str | None], list[tuple[int, int]]] = {}
    for group in groups:
        found.setdefault((group.collective, group.place), []).extend(_read(group.ranks))
    whole = [
        RankGroup(ranks=_written(spans), collective=collective, place=place)
        for (collective, place), spans in found.items()
    ]
    return sorted(whole, key=_order)


def _phrase(group: RankGroup) -> str:
    one = _count(group.ranks) == 1
    who = _who(group.ranks)
    if group.collective:
        where = f" ({group.place})" if group.place else ""
        return f"{who} wait{'s' * one} in {group.collective}{where}"
    if group.place:
        return f"{who} {'is' if one else 'are'} in {group.place}"
    return f"{who} gave no stacks"


def _who(ranks: str) -> str:
    told = [str(a) if a == b else f"{a} to {b}" for a, b in _read(ranks)]
    listed = told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"
    return f"rank{'s' * (_count(ranks) > 1)} {listed}"


def _order(group: RankGroup) -> tuple[bool, int, int]:
    waits, size = group.collective is not None, _count(group.ranks)
    return not waits, -size if waits else size, _read(group.ranks)[0][0]


def _count(ranks: str) -> int:
    return sum(last - first + 1 for first, last in _read(ranks))


def _read(ranks: str) -> list[tuple[int, int]]:
    """Spans as they are written; never a list of numbers, for a pod may claim a million."""
    found = [part.split("-") for part in ranks.split(",")]
    return [(int(part[0]), max(int(part[0]), int(part[-1]))) for part in found]


def _written(spans: Iterable[tuple[int, int]]) -> str:
    joined: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    text = ""
    for first, last in joined:
        part = str(first) if first == last else f"{first}-{last}"
        longer = f"{text},{part}" if text else part
        if len(longer) > LARGEST_RANKS:
            break
        text = longer
    return text
