"""Delete what a decision names, once, and only what it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from florence_operator.api.attempt_pods import owner
from florence_operator.backends.registry import BACKENDS
from florence_operator.kube.client import FLORENCE_JOBS, PODS, SERVICES, ApiError, Client, Resource
from florence_operator.reconcile.decision import Deletion

_RESOURCES: Mapping[str, Resource] = {
    **{kind: backend.resource for kind, backend in BACKENDS.items()},
    "FlorenceJob": FLORENCE_JOBS,
    "Pod": PODS,
    "Service": SERVICES,
}
_CHILD_LABEL = "training.kubeflow.org/job-name"
"""Of the Services that the Training Operator makes."""
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
            uid = await self._orphaned_service(namespace, deletion)
            if uid is None:
                return
        await self._client.delete(_RESOURCES[deletion.kind], deletion.name, namespace, uid=uid)

    async def _orphaned_service(self, namespace: str, deletion: Deletion) -> str | None:
        """The uid of a Service that was made for a child and belongs to nobody any more.

        They are rare, and the operator keeps no cache of Services.
        """
        service = await self._client.get(SERVICES, deletion.name, namespace)
        labels = service["metadata"].get("labels") or {}
        if labels.get(_CHILD_LABEL) != deletion.child or owner(service):
            return None
        return str(service["metadata"]["uid"])
