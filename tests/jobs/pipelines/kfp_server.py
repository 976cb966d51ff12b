"""A stand-in KFP server: what ``submit`` asks of it, in the schema of ``kfp-server-api``."""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api
import yaml

Document = dict[str, Any]


def checked(model: str, body: Document) -> Document:
    """A body, every field of which the model of the client's package knows."""
    known = set(getattr(kfp_server_api, model).attribute_map.values())
    assert set(body) <= known, set(body) - known
    return body


class KfpServer:
    """Its state, and what it refuses."""

    def __init__(self) -> None:
        self.experiments: list[Document] = []
        self.pipelines: list[Document] = []
        self.versions: list[Document] = []
        self.runs: list[Document] = []
        self.recurring: list[Document] = []
        self.uploads: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.token: str | None = None
        self.url = ""

    def answer(self, method: str, target: str, content: bytes, headers: Any) -> tuple[int, Any]:
        self.headers.append(dict(headers))
        if self.token and headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {"error": "unauthenticated"}
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        path = parts.path.removeprefix("/apis/v2beta1/")
        if path == "healthz":
            return 200, {"multi_user": False}
        if path.startswith("pipelines/upload"):
            return 200, self._upload(path, query, content, headers)
        body = json.loads(content or b"{}")
        if versions := re.fullmatch(r"pipelines/([^/]+)/versions", path):
            found = [v for v in self.versions if v["pipeline_id"] == versions[1]]
            return 200, {"pipeline_versions": found, "total_size": len(found)}
        places = {
            "experiments": (self.experiments, "V2beta1Experiment", "experiment_id"),
            "runs": (self.runs, "V2beta1Run", "run_id"),
            "recurringruns": (self.recurring, "V2beta1RecurringRun", "recurring_run_id"),
            "pipelines": (self.pipelines, "V2beta1Pipeline", "pipeline_id"),
        }
        if path not in places:
            return 404, {"error": path}
        kept, model, key = places[path]
        if method == "POST":
            made = {**checked(model, body), key: uuid.uuid4().hex}
            kept.append(made)
            return 200, made
        wanted = json.loads(query.get("filter", "{}")).get("predicates", [])
        found = [
            each
            for each in kept
            if all(
                each.get(p["key"]) == p.get("stringValue", p.get("string_value")) for p in wanted
            )
        ]
        return 200, {path: found, "total_size": len(found)}

    def _upload(self, path: str, query: Document, content: bytes, headers: Any) -> Document:
        form = BytesParser().parsebytes(
            b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + content
        )
        (part,) = form.get_payload()  # type: ignore[misc]
        text = part.get_payload(decode=True).decode()  # type: ignore[union-attr]
        spec = next(yaml.safe_load_all(text))
        assert spec["schemaVersion"] == "2.1.0"
        self.uploads.append(text)
        if path.endswith("upload"):
            made = {"pipeline_id": uuid.uuid4().hex, "display_name": query["name"]}
            self.pipelines.append(made)
            self._version(made["pipeline_id"], query["name"])
            return made
        return self._version(query["pipelineid"], query["name"])

    def _version(self, pipeline: str, name: str) -> Document:
        made = {
            "pipeline_id": pipeline,
            "pipeline_version_id": uuid.uuid4().hex,
            "display_name": name,
        }
        self.versions.append(made)
        return made


@contextmanager
def served_kfp() -> Iterator[KfpServer]:
    """A server on a free port."""
    state = KfpServer()

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            code, document = state.answer(self.command, self.path, content, self.headers)
            text = json.dumps(document).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_GET(self) -> None:
            self._any()

        def do_POST(self) -> None:
            self._any()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)
