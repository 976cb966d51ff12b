"""Which nodes attempts of any job ended on through no fault of theirs, kept up as jobs change.

Nothing is known here that the jobs' statuses do not say; who restarts reads it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from florence_operator.api.blame import strike_of, weight
from florence_operator.api.status import Attempt
from florence_operator.api.times import unix
from florence_operator.runtime.store import Key

Document = Mapping[str, Any]
Struck = tuple[tuple[str, float], ...]
_FAINT = 0.05


class Strikes:
    """The moments of all strikes, by node; each change of a job costs what that job has.

    Args:
        half_life: seconds after which a strike weighs half.
    """

    def __init__(self, half_life: float) -> None:
        self.half_life = half_life
        self._of_jobs: dict[Key, Struck] = {}
        self._of_nodes: dict[str, tuple[float, ...]] = {}

    @property
    def by_node(self) -> Mapping[str, tuple[float, ...]]:
        """When each node was struck (Unix seconds); not to be changed."""
        return self._of_nodes

    def take(self, old: Document | None, new: Document | None) -> None:
        """A job changed, came or went; a handler of its cache."""
        metadata = (new or old or {})["metadata"]
        key = Key(metadata["namespace"], metadata["name"])
        known = self._of_jobs.get(key, ())
        found = strikes_in(new) if new is not None else ()
        if found == known:
            return
        if found:
            self._of_jobs[key] = found
        else:
            del self._of_jobs[key]
        nodes = dict(self._of_nodes)
        for node, moment in known:
            left = list(nodes[node])
            left.remove(moment)
            nodes[node] = tuple(left)
        for node, moment in found:
            nodes[node] = (*nodes.get(node, ()), moment)
        # Whoever was given the old one goes on with it.
        self._of_nodes = {node: moments for node, moments in nodes.items() if moments}

    def weights(self, now: float) -> dict[str, float]:
        """What the strikes of each node weigh now; what hardly weighs anything is left out."""
        found = {n: weight(m, now, self.half_life) for n, m in self._of_nodes.items()}
        return {node: sum_ for node, sum_ in found.items() if sum_ >= _FAINT}


def strikes_in(job: Document) -> Struck:
    """The nodes that a stored job's attempts count against, and when each of them ended."""
    found = []
    for stage in (job.get("status") or {}).get("stages") or ():
        for document in stage.get("attempts") or ():
            if not document.get("node") or not _may_count(document):
                continue
            try:
                attempt = Attempt.model_validate(document)
                moment = unix(attempt.completion_time)
            except (ValidationError, ValueError):
                continue  # another version's; its own operator says more
            if moment is not None and strike_of(attempt) is not None:
                found.append((str(attempt.node), moment))
    return tuple(found)


def _may_count(attempt: Document) -> bool:
    """Whether it is worth being read: hardly any is."""
    return bool(attempt.get("strike")) or attempt.get("cause") == "NodeLost"
