"""Requests to the API server: plain documents in and out, one error type, retries and limits."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import aiohttp

from florence_operator.kube.errors import SILENT, ApiError, error_of
from florence_operator.kube.kubeconfig import find_access
from florence_operator.kube.rate_limits import TokenBucket
from florence_operator.kube.resources import (
    ACCESS_REVIEWS,
    CLUSTER_QUEUES,
    CONFIG_MAPS,
    CRDS,
    DEPLOYMENTS,
    EVENTS,
    FLORENCE_JOBS,
    JOBS,
    LEASES,
    LOCAL_QUEUES,
    NAMESPACES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    PYTORCH_JOBS,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    SUBJECT_REVIEWS,
    TOKEN_REVIEWS,
    VALIDATING_WEBHOOKS,
    WORKLOADS,
    Resource,
    resource_of,
)
from florence_operator.kube.streaming import ListStream
from florence_operator.kube.transport import JSON, JSON_PATCH, Query, Transport, decode, lines

__all__ = [
    "ACCESS_REVIEWS",
    "CLUSTER_QUEUES",
    "CONFIG_MAPS",
    "CRDS",
    "DEPLOYMENTS",
    "EVENTS",
    "FLORENCE_JOBS",
    "JOBS",
    "LEASES",
    "LOCAL_QUEUES",
    "MANAGER",
    "NAMESPACES",
    "NODES",
    "PERSISTENT_VOLUME_CLAIMS",
    "PODS",
    "PYTORCH_JOBS",
    "SECRETS",
    "SERVICES",
    "SERVICE_ACCOUNTS",
    "SUBJECT_REVIEWS",
    "TOKEN_REVIEWS",
    "VALIDATING_WEBHOOKS",
    "WORKLOADS",
    "ApiError",
    "Client",
    "Page",
    "Resource",
    "resource_of",
]

MANAGER = "florence-operator"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list."""

    items: list[Document]
    resource_version: str
    token: str
    """Where the next part starts; empty on the last."""


class Client(Transport):
    """The verbs of one API server; use it as an asynchronous context manager."""

    @classmethod
    async def connect(
        cls,
        *,
        kubeconfig: str | Path | None = None,
        context: str | None = None,
        limiter: TokenBucket | None = None,
        user_agent: str = "florence",
        on_request: Callable[[str, str], None] | None = None,
    ) -> Self:
        """A client for the pod's service account, or for a kubeconfig as kubectl finds it.

        Raises:
            ConfigurationError: there is none of the two, or it cannot be used.
        """
        access = await find_access(kubeconfig, context)
        return cls(access, limiter=limiter, user_agent=user_agent, on_request=on_request)

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Document:
        """One object."""
        return await self.request("GET", resource.path(self._in(resource, namespace), name))

    async def page(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        limit: int = 500,
        token: str = "",
    ) -> Page:
        """One part of a list; of all namespaces when none is given."""
        query: Query = {
            "labelSelector": labels,
            "fieldSelector": fields,
            "limit": limit,
            "continue": token,
        }
        answer = await self.request("GET", resource.path(namespace), query=query)
        items: list[Document] = answer.get("items") or []
        for item in items:
            # Items of a list come without what a watch event has.
            item.setdefault("apiVersion", resource.api_version)
            item.setdefault("kind", resource.kind)
        metadata = answer.get("metadata") or {}
        return Page(items, metadata.get("resourceVersion", ""), metadata.get("continue") or "")

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        limit: int = 500,
    ) -> tuple[list[Document], str]:
        """All objects, of all namespaces when none is given, and the list's resourceVersion."""
        for _ in range(self.tries):
            items: list[Document] = []
            token = ""
            try:
                while True:
                    page = await self.page(
                        resource, namespace, labels=labels, fields=fields, limit=limit, token=token
                    )
                    items += page.items
                    token = page.token
                    if not token:
                        return items, page.resource_version
            except ApiError as error:
                # The server has forgotten the list that the token belongs to: start over.
                if not (error.gone and token):
                    raise
        last = await self.page(resource, namespace, labels=labels, fields=fields, limit=0)
        return last.items, last.resource_version

    async def stream(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
    ) -> AsyncGenerator[Page, None]:
        """All objects in one answer, a part at a time while it comes; the last has the version.

        It is what the API server's own cache holds, which may be a little old: no list costs the
        server less.
        """
        query: Query = {"labelSelector": labels, "fieldSelector": fields, "resourceVersion": "0"}
        path = resource.path(namespace)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=self.timeout)
        found = ListStream(f"GET {path}")
        async with self.open("GET", path, query, None, JSON, timeout) as response:
            async for items in found.batches(response.content.iter_any()):
                for item in items:
                    item.setdefault("apiVersion", resource.api_version)
                    item.setdefault("kind", resource.kind)
                yield Page(items, "", "")
        yield Page([], found.metadata.get("resourceVersion", ""), "")

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        resource_version: str = "",
        timeout_seconds: int = 290,
        idle_seconds: float = 90.0,
    ) -> AsyncGenerator[tuple[str, Document], None]:
        """Changes after ``resource_version``: ADDED, MODIFIED, DELETED or BOOKMARK and the object.

        The server ends it after ``timeout_seconds``. Most send a bookmark about every minute, so a
        connection that is silent for ``idle_seconds`` may be dead; servers that send none of a
        kind that nobody changes are silent as well.

        Raises:
            ApiError: the server refused, sent an ERROR event (410: list again), or went silent.
        """
        query: Query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "labelSelector": labels,
            "fieldSelector": fields,
            "resourceVersion": resource_version,
            "timeoutSeconds": timeout_seconds,
        }
        path = resource.path(namespace)
        timeout = aiohttp.ClientTimeout(
            total=timeout_seconds + idle_seconds, sock_connect=10, sock_read=idle_seconds
        )
        began = False
        try:
            async with self.open("GET", path, query, None, JSON, timeout) as response:
                began = True
                async for line in lines(response):
                    event = decode(line, f"WATCH {path}")
                    if event.get("type") == "ERROR":
                        raise error_of(event.get("object") or {}, f"WATCH {path}")
                    yield str(event.get("type")), event.get("object") or {}
        except ApiError as error:
            if began and isinstance(error.__cause__, TimeoutError):
                said = f"WATCH {path}: nothing was heard for {idle_seconds:g} s"
                raise ApiError(0, SILENT, said) from None
            raise

    async def create(
        self, document: Document, *, manager: str = MANAGER, dry_run: bool = False
    ) -> Document:
        """Creates an object; a 409 says that it exists."""
        resource = resource_of(document)
        path = resource.path(self._namespace_of(resource, document))
        return await self.request("POST", path, query=_writer(manager, dry_run), body=document)

    async def apply(
        self,
        document: Document,
        *,
        manager: str = MANAGER,
        force: bool = True,
        dry_run: bool = False,
    ) -> Document:
        """Makes an object be as the document says, on the server's side, and leaves the rest."""
        resource = resource_of(document)
        path = resource.path(self._namespace_of(resource, document), _name(document))
        query = {**_writer(manager, dry_run), "force": "true" if force else "false"}
        return await self.request(
            "PATCH", path, query=query, body=document, content_type=APPLY_PATCH
        )

    async def replace(
        self, document: Document, *, manager: str = MANAGER, dry_run: bool = False
    ) -> Document:
        """Replaces an object; a 409 says that its resourceVersion is not the newest."""
        resource = resource_of(document)
        path = resource.path(self._namespace_of(resource, document), _name(document))
        return await self.request("PUT", path, query=_writer(manager, dry_run), body=document)

    async def replace_status(
        self, resource: Resource, document: Document, *, manager: str = MANAGER
    ) -> Document:
        """Replaces the status; a 409 says that the document's resourceVersion is not the newest."""
        namespace = self._namespace_of(resource, document)
        path = resource.path(namespace, _name(document), "status")
        return await self.request("PUT", path, query=_writer(manager, False), body=document)

    async def patch(
        self,
        resource: Resource,
        name: str,
        namespace: str | None,
        body: Any,
        *,
        kind: Literal["merge", "json"] = "merge",
        subresource: str = "",
        manager: str = MANAGER,
        dry_run: bool = False,
    ) -> Document:
        """Changes a part of an object."""
        return await self.request(
            "PATCH",
            resource.path(self._in(resource, namespace), name, subresource or None),
            query=_writer(manager, dry_run),
            body=body,
            content_type=MERGE_PATCH if kind == "merge" else JSON_PATCH,
        )

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        propagation: Literal["Background", "Foreground", "Orphan"] = "Background",
        dry_run: bool = False,
    ) -> Document:
        """Deletes an object, only the one with ``uid`` when given; a 404 says that it is gone."""
        options: Document = {"propagationPolicy": propagation}
        if uid:
            options["preconditions"] = {"uid": uid}
        if dry_run:
            options["dryRun"] = ["All"]
        path = resource.path(self._in(resource, namespace), name)
        return await self.request("DELETE", path, body=options)

    async def logs(
        self,
        pod: str,
        namespace: str | None,
        *,
        container: str,
        follow: bool = False,
        tail: int | None = None,
    ) -> AsyncGenerator[str, None]:
        """The lines of a container's log; with ``follow`` until the container ends."""
        query: Query = {
            "container": container,
            "follow": "true" if follow else None,
            "tailLines": tail,
        }
        path = PODS.path(namespace or self.namespace, pod, "log")
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=10, sock_read=None if follow else self.timeout
        )
        async with self.open("GET", path, query, None, JSON, timeout) as response:
            async for line in lines(response):
                yield line.decode("utf-8", errors="replace")

    def _in(self, resource: Resource, namespace: str | None) -> str | None:
        return (namespace or self.namespace) if resource.namespaced else None

    def _namespace_of(self, resource: Resource, document: Document) -> str | None:
        return self._in(resource, (document.get("metadata") or {}).get("namespace"))


def _name(document: Mapping[str, Any]) -> str:
    name = (document.get("metadata") or {}).get("name")
    if not name:
        raise ValueError(f"metadata.name: a {document.get('kind')} needs one")
    return str(name)


def _writer(manager: str, dry_run: bool) -> Query:
    return {"fieldManager": manager, "dryRun": "All" if dry_run else None}
