"""Ask the API server what the caches may not have: so that an absence is a fact, or is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from florence_operator.api.labels import JOB_LABEL, UID_LABEL
from florence_operator.kube.client import Client
from florence_operator.kube.errors import ApiError
from florence_operator.observe.caches import Caches
from florence_operator.observe.observation import Question
from florence_operator.runtime.informer import Informer
from florence_operator.runtime.store import Key

_JOB_UID = "kueue.x-k8s.io/job-uid"
"""Label of a Workload: of the object that it was made for."""

Document = dict[str, Any]


class Answers:
    """What has been asked for one look at one job; what there is goes into the caches.

    Lists are asked for, by label or by name: they are read from etcd, and need no right that the
    caches do not need.
    """

    def __init__(self, client: Client, caches: Caches, key: Key, uid: str) -> None:
        self._client = client
        self._caches = caches
        self._key = key
        self._uid = uid
        self.asked: frozenset[Question] = frozenset()
        self._gone: set[str] = set()
        """Nodes that there are not."""
        self._version: str | None = None

    def observed(self) -> dict[str, Any]:
        """The fields of an observation that caches and answers fill."""
        seen = self._caches.observe(self._key, self._uid)
        if seen["nodes"] is not None:
            seen["nodes"] |= dict.fromkeys(self._gone)
        return {**seen, "answered": self.asked}

    def is_newest(self, job: Mapping[str, Any]) -> bool:
        """Whether the job was as it is here when the API server was asked."""
        return bool(job["metadata"]["resourceVersion"] == self._version)

    async def ask(self, questions: Iterable[Question]) -> None:
        """Find out what is not known yet."""
        new = [question for question in questions if question not in self.asked]
        for question in sorted(new, key=lambda question: (question.kind, question.name)):
            await self._ask(question)
            self.asked |= {question}

    async def _ask(self, question: Question) -> None:
        labels = f"{JOB_LABEL}={self._key.name},{UID_LABEL}={self._uid}"
        caches = self._caches
        if question.kind == "Node":
            named = f"metadata.name={question.name}"
            if caches.nodes is None or not await self._read(caches.nodes, fields=named):
                self._gone.add(question.name)
        elif question.kind == "Child":
            for informer in caches.children.informers:
                await self._read(informer, labels=labels)
        elif question.kind == "Pod":
            await self._read(caches.pods, labels=labels)
        elif question.kind == "FlorenceJob":
            named = f"metadata.name={self._key.name}"
            jobs = await self._read(caches.jobs, fields=named)
            self._version = jobs[0]["metadata"]["resourceVersion"] if jobs else None
        elif caches.workloads is not None:
            uids = [child.uid for child in caches.children_of(self._key, self._uid).values()]
            if uids:
                among = f"{_JOB_UID} in ({','.join(sorted(uids))})"
                await self._read(caches.workloads, labels=among)

    async def _read(self, cache: Informer, *, labels: str = "", fields: str = "") -> list[Document]:
        resource = cache.resource
        namespace = self._key.namespace if resource.namespaced else None
        try:
            found, _ = await self._client.list(resource, namespace, labels=labels, fields=fields)
        except ApiError as error:
            if not error.not_found:
                raise
            return []  # the CRD is gone; what was of it is kept in mind rather than forgotten
        for document in found:
            cache.put(document)
        return found
