"""What of the shards is not in a set though nobody left it out: never without a word."""

from __future__ import annotations

import logging

from florence.data.shards import Need, ShardSet
from florence.errors import DataError

_LOG = logging.getLogger(__name__)


def check_whole(shards: ShardSet, max_bad_fraction: float = 0.0) -> None:
    """Warn of samples that are left out and of damaged shards, or refuse those.

    Nobody knows how much a shard that is cut off has lost: it counts as broken whole.

    Args:
        shards: the set.
        max_bad_fraction: of the shards that may be damaged.

    Raises:
        DataError: more of them are; names one and its damage.
    """
    damaged = [summary for summary in shards.summaries if summary.damage is not None]
    if damaged:
        first, count = damaged[0], len(shards.summaries)
        found = (
            f"{shards.uri}: {len(damaged)} of {count} shards are cut off or damaged and have lost "
            f"samples ({shards.storage.url(first.name)}: {first.damage})"
        )
        advice = f"copy or write them again; 'florencectl data check {shards.uri}' names them all"
        if len(damaged) > max_bad_fraction * count:
            limit = f", more than loader.maxBadFraction={max_bad_fraction:g} allows"
            raise DataError(f"{found}{limit if max_bad_fraction else ''}: {advice}")
        _LOG.warning("%s: %s", found, advice)
    _tell_left_out(shards)


def _tell_left_out(shards: ShardSet) -> None:
    images = sum(summary.images for summary in shards.summaries)
    if shards.need is Need.TEXT:
        left_out, lack = sum(s.word_counts[0] for s in shards.summaries), "text"
    elif shards.need is Need.CLASS:
        left_out = images - sum(summary.labelled for summary in shards.summaries)
        lack = "class number (.cls)"
    else:
        return
    if left_out:
        _LOG.warning(
            "%s: %d of %d images have no %s and are left out: 'florencectl data check %s' names "
            "those that should have one",
            shards.uri,
            left_out,
            images,
            lack,
            shards.uri,
        )
