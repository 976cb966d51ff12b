"""The stand-in API server in a thread, with a kubeconfig, for commands in real processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import yaml
from typer.testing import CliRunner

from florencectl.main import app
from tests.operator.fake_apiserver import FakeApiServer

T = TypeVar("T")


class ServedCluster:
    """A cluster that commands can be pointed at."""

    def __init__(
        self, server: FakeApiServer, loop: asyncio.AbstractEventLoop, kubeconfig: Path
    ) -> None:
        self.server = server
        self.kubeconfig = kubeconfig
        self._loop = loop

    def do(self, act: Callable[[FakeApiServer], T]) -> T:
        """Do something to the server, in its own thread."""

        async def acted() -> T:
            return act(self.server)

        return asyncio.run_coroutine_threadsafe(acted(), self._loop).result(60)

    def put(self, *documents: dict[str, Any]) -> None:
        """Make objects be as the documents say."""
        for document in documents:
            self.do(lambda server, document=document: server.put(document))  # type: ignore[misc]

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a command."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), **more}

    def run(self, *arguments: str) -> SimpleNamespace:
        """Run a command in this process, as the console script would."""
        result = CliRunner().invoke(app, list(arguments), env={"KUBECONFIG": str(self.kubeconfig)})
        return SimpleNamespace(
            returncode=result.exit_code, stdout=result.stdout, stderr=result.stderr
        )

    def run_process(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", "florencectl.main", *arguments],
            text=True,
            capture_output=True,
            timeout=300,
            env=self.environment(**more),
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command that goes on."""
        return subprocess.Popen(
            [sys.executable, "-m", "florencectl.main", *arguments],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment(),
        )


@contextmanager
def served_cluster(folder: Path) -> Iterator[ServedCluster]:
    """A cluster with nothing in it; its kubeconfig's namespace is ``team``."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = FakeApiServer()
    asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(60)
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(kubeconfig_of(server.url)))
    try:
        yield ServedCluster(server, loop, kubeconfig)
    finally:
        asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)


def kubeconfig_of(url: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": url}}],
        "users": [{"name": "test", "user": {}}],
        "contexts": [
            {"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "team"}}
        ],
    }
