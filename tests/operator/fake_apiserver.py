"""A stand-in API server: real sockets, objects in memory, and faults on demand."""

from __future__ import annotations

import asyncio
import copy
import json
import uuid
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Self

from aiohttp import web
from kubernetes_asyncio.client import Configuration

from florence_operator.kube.client import Client
from florence_operator.kube.kubeconfig import Access
from florence_operator.kube.resources import Resource, resource_of
from tests.operator.api_semantics import (
    Document,
    Event,
    RefusedError,
    Watch,
    Where,
    discovered,
    error_line,
    json_patched,
    line_of,
    merged,
    parse,
    pruned,
    selected,
    without,
)

NOW = "2026-01-01T00:00:00Z"
WITH_STATUS = {
    *("florencejobs", "pytorchjobs", "trainjobs", "pods", "nodes", "workloads", "jobs", "jobsets")
}
MANAGED = ("uid", "creationTimestamp", "deletionTimestamp", "generation", "resourceVersion")


# As Go writes it.
_compact = partial(json.dumps, separators=(",", ":"))


class FakeApiServer:
    """Serves on a free port of 127.0.0.1 while its context is entered."""

    def __init__(self, *, bookmark_seconds: float = 30.0, collect_garbage: bool = True) -> None:
        self.objects: dict[tuple[str, str], dict[tuple[str, str], Document]] = {}
        self.requests: list[tuple[str, str]] = []
        self.before: list[Callable[[web.Request], Awaitable[web.StreamResponse | None]]] = []
        """Asked before each request; an answer other than None is sent instead."""
        self.tokens: dict[str, Document] = {}
        """Status of the TokenReview of each token that is known."""
        self._lists: dict[str, tuple[int, list[Document]]] = {}
        self.groups: dict[str, list[str]] = {"kubeflow.org": ["v1"]}
        """Versions of the groups that discovery tells of, the preferred one first."""
        self.schemas: dict[tuple[str, str], Document] = {}
        """By group and plural, the schema that objects are pruned by."""
        self.logs: dict[tuple[str, str], str] = {}
        self.url = ""
        self.watches: list[Watch] = []
        self._bookmark_seconds = bookmark_seconds
        self._collect_garbage = collect_garbage
        self._version = 100
        self._oldest = 0
        self._history: deque[Event] = deque(maxlen=50_000)
        self._applied: dict[tuple[str, ...], Document] = {}
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.drop_watches()
        assert self._runner is not None
        await self._runner.cleanup()

    def client(self, **options: Any) -> Client:
        """A client of this server."""
        return Client(Access(Configuration(host=self.url)), **options)

    # What tests do to the server.

    def get(self, resource: Resource, namespace: str, name: str) -> Document | None:
        """An object as it is now."""
        return copy.deepcopy(self._of(resource.group, resource.plural).get((namespace, name)))

    def all(self, resource: Resource, labels: str = "") -> list[Document]:
        """All objects of a resource as they are now."""
        every = self._of(resource.group, resource.plural).values()
        return [copy.deepcopy(each) for each in every if selected(each, labels)]

    def put(self, document: Document) -> Document:
        """Creates or replaces an object, status included, as somebody else would."""
        where = self._place(document)
        old = self._of(*where.kind).get(where.key)
        return self._store(where, old, self._completed(where, old, copy.deepcopy(document)))

    def remove(self, resource: Resource, namespace: str, name: str) -> None:
        """Deletes an object at once, finalizers or not."""
        where = Where(resource.group, resource.version, resource.plural, namespace, name, "")
        old = self._of(*where.kind).get(where.key)
        if old is not None:
            self._drop(where, old)

    def compact(self) -> None:
        """Forgets every version but the newest: older watches and continuations get a 410."""
        self._history.clear()
        self._oldest = self._version

    def backup(self) -> tuple[int, Any]:
        return self._version, copy.deepcopy(self.objects)

    def restore(self, backup: tuple[int, Any]) -> None:
        """Goes back to a backup and its versions."""
        self._version, self.objects = backup
        self.compact()
        self.drop_watches()

    def drop_watches(self) -> None:
        """Cuts the connections of all watches."""
        for watch in self.watches:
            watch.events.put_nowait(None)

    def mute_watches(self) -> None:
        """Lets the open watches hang: connected, and silent for ever."""
        for watch in self.watches:
            watch.muted = True

    def fail_watches(self, code: int, reason: str) -> None:
        """Sends an ERROR event to all open watches."""
        for watch in self.watches:
            watch.events.put_nowait(error_line(code, reason))

    def fail(
        self,
        code: int,
        reason: str = "",
        *,
        method: str = "",
        path: str = "",
        times: int = 1,
        retry_after: int | None = None,
        after: bool = False,
    ) -> None:
        """Refuses the next requests of a method whose path contains ``path``; 0 hangs up.

        With ``after`` the request is carried out, and its answer is lost.
        """
        left, headers = [times], {} if retry_after is None else {"Retry-After": str(retry_after)}

        async def refuse(request: web.Request) -> web.StreamResponse | None:
            if left[0] <= 0 or path not in request.path or method not in ("", request.method):
                return None
            left[0] -= 1
            if after:
                await self._answer(request)
            if code == 0:
                assert request.transport is not None
                request.transport.abort()
            return RefusedError(code or 500, reason or f"Injected{code}", **headers).response()

        self.before.append(refuse)

    def counts(self, *, path: str = "") -> Counter[str]:
        """Requests so far by method."""
        return Counter(method for method, sent in self.requests if path in sent)

    # What the server does.

    def _of(self, group: str, plural: str) -> dict[tuple[str, str], Document]:
        return self.objects.setdefault((group, plural), {})

    def _place(self, document: Document) -> Where:
        resource, metadata = resource_of(document), document["metadata"]
        namespace = metadata.get("namespace", "default") if resource.namespaced else ""
        return Where(
            resource.group, resource.version, resource.plural, namespace, metadata["name"], ""
        )

    def _completed(self, where: Where, old: Document | None, new: Document) -> Document:
        """The object with what the server itself keeps in its metadata."""
        metadata = new.setdefault("metadata", {})
        known = (old or {}).get("metadata", {})
        for name in MANAGED:
            metadata.pop(name, None)
            if name in known:
                metadata[name] = known[name]
        metadata["name"] = where.name
        if where.namespace:
            metadata["namespace"] = where.namespace
        metadata.setdefault("uid", str(uuid.uuid4()))
        metadata.setdefault("creationTimestamp", NOW)
        metadata.setdefault("generation", 1)
        if old is not None and old.get("spec") != new.get("spec"):
            metadata["generation"] += 1
        return new

    def _store(self, where: Where, old: Document | None, new: Document) -> Document:
        if where.kind in self.schemas:
            new = pruned(new, self.schemas[where.kind])
        if old == new:
            return new
        if new["metadata"].get("deletionTimestamp") and not new["metadata"].get("finalizers"):
            return self._drop(where, old or new)
        self._version += 1
        new["metadata"]["resourceVersion"] = str(self._version)
        self._of(*where.kind)[where.key] = new
        self._tell(Event(self._version, where.kind, old, new, None))
        return new

    def _drop(self, where: Where, old: Document) -> Document:
        self._version += 1
        self._of(*where.kind).pop(where.key, None)
        gone = copy.deepcopy(old)
        gone["metadata"]["resourceVersion"] = str(self._version)
        self._tell(Event(self._version, where.kind, old, None, gone))
        if self._collect_garbage:
            for (group, plural), objects in list(self.objects.items()):
                for (namespace, name), child in list(objects.items()):
                    owners = child["metadata"].get("ownerReferences") or ()
                    if any(owner.get("uid") == old["metadata"]["uid"] for owner in owners):
                        self._delete(Where(group, "v1", plural, namespace, name, ""), child)
        return gone

    def _delete(self, where: Where, old: Document) -> Document:
        if not old["metadata"].get("finalizers"):
            return self._drop(where, old)
        new = copy.deepcopy(old)
        new["metadata"].setdefault("deletionTimestamp", NOW)
        return self._store(where, old, new)

    def _tell(self, event: Event) -> None:
        self._history.append(event)
        for watch in self.watches:
            watch.events.put_nowait(event)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        for hook in self.before:
            answer = await hook(request)
            if answer is not None:
                return answer
        return await self._answer(request)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            if request.path.startswith("/apis/") and request.path.count("/") < 4:
                return web.json_response(discovered(self.groups, *request.path.split("/")[2:]))
            where = parse(request.path)
            if where.plural.endswith("reviews"):
                return web.json_response(self._review(await request.json()), status=201)
            if where.sub == "log":
                return web.Response(text=self.logs[where.key])
            if request.query.get("watch"):
                return await self._watch(request, where)
            if request.method == "GET":
                return web.json_response(self._read(request, where), dumps=_compact)
            body = json.loads(await request.read() or b"{}")
            answer = self._write(request, where, body)
            return web.json_response(answer, status=201 if request.method == "POST" else 200)
        except RefusedError as refused:
            return refused.response()

    def _review(self, review: Document) -> Document:
        if review["kind"] != "TokenReview":
            return {**review, "status": {"allowed": True}}
        known = self.tokens.get(review["spec"]["token"], {"authenticated": False})
        return {**review, "status": known}

    def _read(self, request: web.Request, where: Where) -> Document:
        objects = self._of(*where.kind)
        if where.name:
            if where.key not in objects:
                raise RefusedError(404, "NotFound", f'{where.plural} "{where.name}" not found')
            return objects[where.key]
        limit, token = int(request.query.get("limit", 0)), request.query.get("continue", "")
        if token:
            version, found = self._lists[token]
            if version < self._oldest:
                raise RefusedError(410, "Expired", "the continue token is too old")
        else:
            version, found = self._version, self._matching(request, where)
        rest = uuid.uuid4().hex if 0 < limit < len(found) else ""
        self._lists[rest] = version, found[limit:]  # all pages are of one version
        metadata = {"resourceVersion": str(version), "continue": rest}
        items = found[: limit or None]
        return {"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}

    def _matching(self, request: web.Request, where: Where) -> list[Document]:
        fields = dict(
            term.split("=", 1) for term in request.query.get("fieldSelector", "").split(",") if term
        )
        labels = request.query.get("labelSelector", "")
        if where.namespace and "metadata.name" in fields:
            found = self._of(*where.kind).get((where.namespace, fields["metadata.name"]))
            return [found] if found is not None and selected(found, labels) else []
        return [
            document
            for (namespace, name), document in sorted(self._of(*where.kind).items())
            if where.namespace in ("", namespace)
            and fields.get("metadata.name", name) == name
            and selected(document, labels)
        ]

    def _write(self, request: web.Request, where: Where, body: Any) -> Document:
        if request.method == "POST":
            name = body["metadata"].get("name")
            name = name or body["metadata"]["generateName"] + uuid.uuid4().hex[:5]
            where = where._replace(name=name)
        old = self._of(*where.kind).get(where.key)
        applying = "apply-patch" in request.content_type
        if request.method == "POST" and old is not None:
            raise RefusedError(
                409, "AlreadyExists", f'{where.plural} "{where.name}" already exists'
            )
        if old is None and request.method != "POST" and not applying:
            raise RefusedError(404, "NotFound", f'{where.plural} "{where.name}" not found')
        if request.method == "DELETE":
            assert old is not None
            uid = (body.get("preconditions") or {}).get("uid")
            if uid not in (None, old["metadata"]["uid"]):
                raise RefusedError(409, "Conflict", "the UID in the precondition does not match")
            return old if body.get("dryRun") else self._delete(where, old)
        manager = (*where.kind, where.namespace, where.name, request.query.get("fieldManager", ""))
        new = self._changed(request, old, body, self._applied.get(manager, {}))
        version = new.get("metadata", {}).get("resourceVersion")
        if old is not None and version not in (None, old["metadata"]["resourceVersion"]):
            raise RefusedError(409, "Conflict", "the object has been modified")
        new = self._completed(where, old, new)
        self._separate(where, old, new)
        if old is not None:
            new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
        if request.query.get("dryRun"):
            return new
        if applying:
            self._applied[manager] = body
        return self._store(where, old, new)

    def _changed(
        self, request: web.Request, old: Document | None, body: Any, before: Document
    ) -> Document:
        """What the body makes of the object."""
        if request.method in ("POST", "PUT"):
            return copy.deepcopy(body)
        if "apply-patch" in request.content_type:
            return merged(without(copy.deepcopy(old or {}), before, body), copy.deepcopy(body))
        assert old is not None
        if "json-patch" in request.content_type:
            return json_patched(old, body)
        return merged(copy.deepcopy(old), body)

    def _separate(self, where: Where, old: Document | None, new: Document) -> None:
        """Status is written through its own path only, and that path writes nothing else."""
        if where.plural not in WITH_STATUS:
            return
        if where.sub == "status":
            status, metadata = new.get("status"), (old or new)["metadata"]
            new.clear()
            new.update(copy.deepcopy(old or {}), metadata=copy.deepcopy(metadata))
        else:
            status = (old or {}).get("status")
        new.pop("status", None)
        if status is not None:
            new["status"] = status

    async def _watch(self, request: web.Request, where: Where) -> web.StreamResponse:
        since = int(request.query.get("resourceVersion") or self._version)
        watch = Watch(where, request.query.get("labelSelector", ""))
        response = web.StreamResponse()
        response.content_type = "application/json"
        await response.prepare(request)
        if since < self._oldest:
            await response.write(error_line(410, "Expired"))
            return response
        for event in self._history:
            if event.version > since:
                watch.events.put_nowait(event)
        self.watches.append(watch)
        deadline = float(request.query.get("timeoutSeconds", 300))
        try:
            async with asyncio.timeout(deadline):
                await self._send(watch, response, request)
        except (TimeoutError, ConnectionError):
            pass
        finally:
            self.watches.remove(watch)
        return response

    async def _send(self, watch: Watch, response: web.StreamResponse, request: web.Request) -> None:
        while True:
            try:
                async with asyncio.timeout(self._bookmark_seconds):
                    event = await watch.events.get()
            except TimeoutError:
                metadata = {"resourceVersion": str(self._version)}
                event = json.dumps({"type": "BOOKMARK", "object": {"metadata": metadata}}).encode()
                event += b"\n"
            if event is None:
                if request.transport is not None:
                    request.transport.abort()
                return
            line = event if isinstance(event, bytes) else line_of(watch, event)
            if line and not watch.muted:
                await response.write(line)
