"""What an API server's verbs mean, without the server: paths, selectors and patches."""

from __future__ import annotations

import asyncio
import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiohttp import web

from florence_operator.kube.resources import KNOWN

Document = dict[str, Any]


class RefusedError(Exception):
    """An answer other than success."""

    def __init__(self, code: int, reason: str, message: str = "", **headers: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.headers = code, reason, message, headers

    def document(self) -> Document:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
        message = self.message or self.reason
        return {**status, "code": self.code, "reason": self.reason, "message": message}

    def response(self) -> web.Response:
        return web.json_response(self.document(), status=self.code, headers=self.headers)


class Where(NamedTuple):
    """What a path names."""

    group: str
    version: str
    plural: str
    namespace: str
    name: str
    sub: str

    @property
    def kind(self) -> tuple[str, str]:
        return self.group, self.plural

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name


def parse(path: str) -> Where:
    """The object or the collection that a request's path names."""
    parts = path.strip("/").split("/")
    group, version, rest = ("", parts[1], parts[2:])
    if parts[0] == "apis":
        group, version, rest = parts[1], parts[2], parts[3:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    rest += [""] * (3 - len(rest))
    return Where(group, version, rest[0], namespace, rest[1], rest[2])


def discovered(groups: Mapping[str, list[str]], group: str, version: str = "") -> Document:
    """What is served of a group, or of one version of it."""
    versions = groups.get(group, [])
    if not versions or version not in ("", *versions):
        raise RefusedError(404, "NotFound", "the server could not find the requested resource")
    if not version:
        known = [{"version": each} for each in versions]
        return {"kind": "APIGroup", "versions": known, "preferredVersion": known[0]}
    names = [{"name": each.plural} for each in KNOWN if each.group == group]
    return {"kind": "APIResourceList", "resources": names}


def selected(document: Document, selector: str) -> bool:
    """Whether a label selector takes the object."""
    labels = document["metadata"].get("labels") or {}
    for term in filter(None, re.split(r",(?![^(]*\))", selector)):
        among = re.fullmatch(r"\s*(\S+) (in|notin) \((.*)\)\s*", term)
        if among:
            values = [value.strip() for value in among[3].split(",")]
            good = (labels.get(among[1]) in values) == (among[2] == "in")
        elif "!=" in term:
            key, _, value = term.partition("!=")
            good = labels.get(key.strip()) != value.strip()
        elif "=" in term:
            key, _, value = term.replace("==", "=").partition("=")
            good = labels.get(key.strip()) == value.strip()
        else:
            good = (term.lstrip("!") in labels) != term.startswith("!")
        if not good:
            return False
    return True


def merged(target: Any, change: Any) -> Any:
    """RFC 7386."""
    if not isinstance(change, dict):
        return change
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def without(target: Any, before: Any, now: Any) -> Any:
    """The target less what an applier gave before and does not give now."""
    if not (isinstance(target, dict) and isinstance(before, dict)):
        return target
    result = dict(target)
    for key, value in before.items():
        given = now.get(key) if isinstance(now, dict) else None
        if given is None:
            result.pop(key, None)
        elif key in result:
            result[key] = without(result[key], value, given)
    return result


def json_patched(document: Document, operations: list[Document]) -> Document:
    """RFC 6902 without move and copy."""
    document = copy.deepcopy(document)
    for operation in operations:
        steps = [s.replace("~1", "/").replace("~0", "~") for s in operation["path"].split("/")[1:]]
        *parents, last = steps
        parent: Any = document
        try:
            for step in parents:
                parent = parent[int(step)] if isinstance(parent, list) else parent[step]
            place: Any = last
            if isinstance(parent, list):
                place = len(parent) if last == "-" else int(last)
            if operation["op"] == "test":
                found = parent.get(place) if isinstance(parent, dict) else parent[place]
                if found != operation.get("value"):
                    raise RefusedError(422, "Invalid", f"test of {operation['path']} failed")
            elif operation["op"] == "remove":
                del parent[place]
            elif isinstance(parent, list) and operation["op"] == "add":
                parent.insert(place, operation["value"])
            else:
                parent[place] = operation["value"]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise RefusedError(422, "Invalid", f"{operation['path']}: {error!r}") from None
    return document


def pruned(value: Any, schema: Document) -> Any:
    """A custom object, or a part of one, as it is stored and read: without undescribed fields.

    Of the root every object has apiVersion, kind and metadata, whatever the schema says of them.
    """
    if isinstance(value, list) and "items" in schema:
        return [pruned(each, schema["items"]) for each in value]
    if not isinstance(value, dict):
        return value
    if "additionalProperties" in schema:
        values = schema["additionalProperties"]
        return {name: pruned(each, values) for name, each in value.items()}
    known = schema.get("properties", {})
    kept = value if schema.get("x-kubernetes-preserve-unknown-fields") else known
    return {
        name: pruned(each, known[name]) if name in known and name != "metadata" else each
        for name, each in value.items()
        if name in kept
    }


class Event(NamedTuple):
    """A change, as watches tell of it."""

    version: int
    kind: tuple[str, str]
    old: Document | None
    new: Document | None
    gone: Document | None


@dataclass
class Watch:
    """An open watch."""

    where: Where
    labels: str
    events: asyncio.Queue[Event | bytes | None] = field(default_factory=asyncio.Queue)
    muted: bool = False


def line_of(watch: Watch, event: Event) -> bytes:
    """What a watch tells of a change; nothing when it is not about what it watches."""
    document = event.new or event.gone or {}
    namespace = document["metadata"].get("namespace", "")
    if event.kind != watch.where.kind or watch.where.namespace not in ("", namespace):
        return b""
    was = event.old is not None and selected(event.old, watch.labels)
    is_now = event.new is not None and selected(event.new, watch.labels)
    if not (was or is_now):
        return b""
    kind = ("MODIFIED" if was else "ADDED") if is_now else "DELETED"
    return json.dumps({"type": kind, "object": document}).encode() + b"\n"


def error_line(code: int, reason: str) -> bytes:
    """An ERROR event."""
    return (
        json.dumps({"type": "ERROR", "object": RefusedError(code, reason).document()}).encode()
        + b"\n"
    )
