"""Make the objects of new attempts; created, never applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from florence_operator.api.attempt_pods import owner
from florence_operator.kube.client import ApiError, Client
from florence_operator.kube.resources import resource_of
from florence_operator.observe.answers import Answers
from florence_operator.observe.caches import Caches
from florence_operator.observe.observation import Question, Refusal
from florence_operator.reconcile.decision import Start

Document = Mapping[str, Any]


class Starter:
    """Creates what an attempt consists of.

    What is there already is another job's, or one of ours that the cache does not have yet, and
    neither is to be changed.
    """

    def __init__(self, client: Client, caches: Caches) -> None:
        self._client = client
        self._caches = caches

    async def start(
        self, starts: Sequence[Start], uid: str, answers: Answers
    ) -> tuple[dict[str, Refusal], ApiError | None]:
        """Make the objects of new attempts; what the server refuses, by stage, and its error."""
        refusals: dict[str, Refusal] = {}
        last: ApiError | None = None
        for start in starts:
            try:
                refusal = await self._make(start, uid, answers)
            except ApiError as error:
                if error.unreachable or error.conflict or error.unauthorized:
                    raise
                final = error.status in (400, 422)
                refusal = Refusal(message=error.message, final=final)
                last = last if final else error
            if refusal is not None:
                refusals[start.stage] = refusal
        return refusals, last

    async def _make(self, start: Start, uid: str, answers: Answers) -> Refusal | None:
        """Make the objects of one attempt; what is in their way, if anything is."""
        for document in start.documents:
            is_child = document is start.documents[-1]
            taken = self._caches.foreign(document, uid)
            if taken is not None:
                return Refusal(message=taken, final=False)
            try:
                if is_child:
                    self._caches.children.put(await self._client.create(dict(document)))
                else:
                    await self._anew(document, uid)
            except ApiError as error:
                if not error.already_exists:
                    raise
                await answers.ask({Question("Child")})
                said = f"{document['kind']} {document['metadata']['name']} exists already"
                return Refusal(message=said, final=False)
        return None

    async def _anew(self, document: Document, uid: str) -> None:
        """Make an object that a child needs; one that an operator left that died is replaced.

        It may be of another spec, or somebody's who guessed its name.
        """
        try:
            await self._client.create(dict(document))
        except ApiError as error:
            if not error.already_exists:
                raise
            resource, metadata = resource_of(document), document["metadata"]
            name, namespace = metadata["name"], metadata["namespace"]
            found = await self._client.get(resource, name, namespace)
            if owner(found) != uid:
                raise
            old = found["metadata"]["uid"]
            await self._client.delete(resource, name, namespace, uid=old)
            await self._client.create(dict(document))
