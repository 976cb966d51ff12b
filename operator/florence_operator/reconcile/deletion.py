"""Delete what a decision names, once, and only what it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from florence_operator.api.attempt_pods import owner
from florence_operator.backends.registry import BACKENDS
from florence_operator.kube.client import FLORENCE_JOBS, PODS, ApiError, Client, Resource
from florence_operator.reconcile.decision import Deletion

_RESOURCES: Mapping[str, Resource] = {
    **{kind: each for backend in BACKENDS.values() for kind, each in backend.resources.items()},
    "FlorenceJob": FLORENCE_JOBS,
    "Pod": PODS,
}
_CHILD_LABELS = {"Service": "training.kubeflow.org/job-name"}
"""By kind, the label that names the child; what is of no such kind has the child's own name."""
_ASKED_FOR = 30.0
_REMEMBERED = 10_000


class Deleter:
    """Deletes objects; the watches tell of it in a moment, and until then it is not asked again."""

    def __init__(self, client: Client, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._asked: dict[tuple[str, str, str, str], float] = {}

    async def delete(self, namespace: str, deletion: Deletion) -> None:
        """Have an object deleted; one that is gone, or another of that name, is as wanted."""
        asked = (deletion.kind, namespace, deletion.name, deletion.uid or "")
        now = self._clock()
        if now - self._asked.get(asked, -_ASKED_FOR) < _ASKED_FOR:
            return
        try:
            await self._delete(namespace, deletion)
        except ApiError as error:
            if not (error.not_found or error.conflict):
                raise
        self._asked[asked] = now
        if len(self._asked) > _REMEMBERED:
            self._asked = {k: t for k, t in self._asked.items() if now - t < _ASKED_FOR}

    async def _delete(self, namespace: str, deletion: Deletion) -> None:
        uid = deletion.uid
        if deletion.child is not None:
            uid = await self._orphaned(namespace, deletion)
            if uid is None:
                return
        resource = _RESOURCES[deletion.kind]
        try:
            await self._client.delete(resource, deletion.name, namespace, uid=uid)
        except ApiError as error:
            if not error.not_found:
                raise
        backend = BACKENDS.get(deletion.kind)
        for beside in backend.companions(deletion.name) if backend is not None else ():
            await self._client.delete(_RESOURCES[beside.kind], beside.name, namespace)

    async def _orphaned(self, namespace: str, deletion: Deletion) -> str | None:
        """The uid of an object that was made for a child and belongs to nobody any more.

        They are rare, and the operator keeps no cache of their kinds.
        """
        found = await self._client.get(_RESOURCES[deletion.kind], deletion.name, namespace)
        labels, label = found["metadata"].get("labels") or {}, _CHILD_LABELS.get(deletion.kind)
        child = labels.get(label) if label is not None else deletion.name
        if child != deletion.child or owner(found):
            return None
        return str(found["metadata"]["uid"])
