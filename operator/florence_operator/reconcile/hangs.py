"""What the pods of an attempt that is being stopped tell of ranks that did not stop."""

from __future__ import annotations

from collections.abc import Iterable

from florence_operator.api.attempt_pods import Pod
from florence_operator.api.ranks import merged, sentence
from florence_operator.api.status import Attempt, StageStatus
from florence_operator.api.termination import last_words
from florence_operator.reconcile.stage_view import with_attempt


def take_ranks(status: StageStatus, pods: Iterable[Pod]) -> StageStatus:
    """The record with what pods told that have just ended; the next moment they are gone."""
    known = status.attempts[-1].ranks
    told = [
        group
        for pod in pods
        if pod.terminated is not None
        for group in last_words(pod.terminated.message).ranks
    ]
    return with_attempt(status, ranks=merged([*known, *told])) if told else status


def message_of(attempt: Attempt) -> str:
    """Why an attempt was stopped, and which of its ranks the others waited for."""
    return ": ".join(filter(None, (attempt.message, sentence(attempt.ranks))))
