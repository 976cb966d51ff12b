"""Which ranks wait for which, in words, whatever the pods say."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from florence_operator.api.ranks import (
    LARGEST_RANKS,
    MOST_GROUPS,
    RankGroup,
    merged,
    sentence,
    spans_of,
)
from florence_operator.api.termination import LARGEST, Termination, last_words

READING = "florence/data/shards.py:88 read"


def group(ranks: str, collective: str | None = None, place: str | None = None) -> RankGroup:
    return RankGroup(ranks=ranks, collective=collective, place=place)


def test_the_rank_that_is_missing_is_named() -> None:
    told = sentence([group("0-6", "all_reduce"), group("7", place=READING)])
    assert told == "ranks 0 to 6 wait in all_reduce; rank 7 is in florence/data/shards.py:88 read"


def test_pods_together_tell_of_all_ranks() -> None:
    first = [group("0-7", "all_reduce", "florence/stages/trainer.py:221 _sum")]
    second = [*first, group("15")]
    second[0] = first[0].model_copy(update={"ranks": "8-14"})
    assert merged([*first, *second])[0].ranks == "0-14"
    assert sentence([*first, *second]) == (
        "ranks 0 to 14 wait in all_reduce (florence/stages/trainer.py:221 _sum); "
        "rank 15 gave no stacks"
    )
    assert merged([*first, *first]) == merged(first)


def test_ranks_with_gaps_are_told_as_people_would() -> None:
    assert spans_of([9, 0, 2, 1, 4, 5]) == "0-2,4-5,9"
    assert sentence([group("0-2,4-5,9", "barrier")]) == "ranks 0 to 2, 4 to 5 and 9 wait in barrier"
    assert sentence([group("3", "barrier")]) == "rank 3 waits in barrier"
    assert sentence([]) == ""


def test_few_ranks_apart_are_told_before_many() -> None:
    many = [group(f"{10 * n}-{10 * n + 8}", place=f"a.py:{n} f") for n in range(1, 20)]
    told = sentence([*many, group("9", place=READING)])
    assert told.startswith(f"rank 9 is in {READING}; ")
    assert "more are elsewhere" in told
    assert len(merged(many)) == MOST_GROUPS


@pytest.mark.parametrize("ranks", ["", "x", "1-", "99999999", "0-1,", "0" * 500])
def test_what_is_no_list_of_ranks_is_refused(ranks: str) -> None:
    with pytest.raises(ValidationError):
        group(ranks)


def test_a_pod_that_claims_a_million_ranks_costs_nothing() -> None:
    assert sentence([group("0-999999", "barrier")]) == "ranks 0 to 999999 wait in barrier"
    assert len(spans_of(range(0, 5000, 2))) <= LARGEST_RANKS


def test_last_words_tell_of_the_ranks_within_what_kubernetes_keeps() -> None:
    groups = tuple(group(str(n), place="x" * 120) for n in range(16))
    words = Termination(failure="f" * 500, lines=("l" * 400,) * 20, ranks=groups)
    text = words.encode()
    assert len(text.encode()) <= LARGEST
    assert last_words(text).ranks == groups
    assert last_words(words.encode(1000)).failure
