"""Broken samples are counted over ranks and attempts, and judged when there are enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence.data.bad_samples import BadSampleCounter, WorstShard
from florence.data.batch import BrokenSample
from florence.errors import DataError


def counter(max_fraction: float = 0.1, decide_after: int = 100) -> BadSampleCounter:
    return BadSampleCounter("s3://b/shards", max_fraction, decide_after)


def test_nothing_is_judged_before_there_are_enough_samples() -> None:
    one = counter()
    assert not one.add(99, 99)
    assert one.add(1, 0), "99 of 100"


def test_the_limit_itself_is_allowed() -> None:
    assert not counter().add(100, 10)
    assert counter().add(100, 11)


def test_no_broken_sample_may_be_allowed() -> None:
    one = counter(max_fraction=0.0, decide_after=1)
    assert not one.add(50, 0)
    assert one.add(50, 1)


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(0, 8)), max_size=40), st.integers(0, 40))
def test_it_is_a_function_of_the_sums_whatever_the_steps_and_resumes(
    steps: list[tuple[int, int]], cut: int
) -> None:
    whole, first = counter(), counter()
    verdicts = [whole.add(seen, bad) for seen, bad in steps]
    resumed = [first.add(seen, bad) for seen, bad in steps[:cut]]
    second = counter()
    second.seen, second.bad = first.seen, first.bad  # all that a checkpoint keeps
    resumed += [second.add(seen, bad) for seen, bad in steps[cut:]]
    assert resumed == verdicts
    for number, verdict in enumerate(verdicts, 1):
        seen = sum(seen for seen, _ in steps[:number])
        bad = sum(bad for _, bad in steps[:number])
        assert verdict == (seen >= 100 and bad > 0.1 * seen)


def test_each_rank_knows_its_own_worst_shard_and_its_first_example() -> None:
    one = counter()
    assert one.worst() is None
    one.note([BrokenSample("0.tar", "a", "no image")])
    one.note([BrokenSample("1.tar", "b", "truncated"), BrokenSample("1.tar", "c", "no text")])
    one.note([])
    assert one.worst() == WorstShard(2, "1.tar", "b: truncated")


def test_the_error_names_the_worst_shard_of_all_ranks() -> None:
    one = counter()
    assert one.add(1_000, 250)
    error = one.error(
        [
            WorstShard(90, "3.tar", "x: truncated"),
            None,
            WorstShard(60, "7.tar", "y: no image"),
            WorstShard(60, "7.tar", "z: no text"),
        ]
    )
    assert isinstance(error, DataError)
    assert str(error) == (
        "s3://b/shards: 250 of 1000 samples are broken, more than loader.maxBadFraction=0.1 "
        "allows; worst is shard 7.tar with 120 (y: no image): "
        "run 'florencectl data check s3://b/shards'"
    )


def test_after_a_resume_no_shard_may_be_known() -> None:
    one = counter()
    one.seen, one.bad = 1_000, 250
    message = str(one.error([None, None]))
    assert "allows: run" in message
    assert message.count("\n") == 0


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_all_ranks_of_a_gang_decide_alike(ranks: int) -> None:
    """Each adds the sums over ranks, whoever saw what."""
    counters = [counter() for _ in range(ranks)]
    seen, bad = 20 * ranks, 3 * ranks
    verdicts = [{each.add(seen, bad) for each in counters} for _ in range(5)]
    assert all(len(verdict) == 1 for verdict in verdicts)
    assert verdicts[-1] == {True}
