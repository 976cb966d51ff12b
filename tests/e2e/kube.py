"""The cluster as its users and its misfortunes see it: kubectl, and a way to break nodes."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NAMESPACE = "florence"
SYSTEM = "florence-system"
Document = dict[str, Any]


class KubectlError(Exception):
    """kubectl ended with an error; the message is what it said."""


def kubectl(*arguments: str, given: str | None = None, timeout: float = 120) -> str:
    """What kubectl prints; ``given`` goes to its standard input."""
    done = subprocess.run(
        ["kubectl", *arguments], input=given, capture_output=True, text=True, timeout=timeout
    )
    if done.returncode:
        raise KubectlError(done.stderr.strip() or done.stdout.strip())
    return done.stdout


def florencectl(*arguments: str, code: int = 0, limit: float = 600) -> str:
    """Run a command of ours and return its output; ``limit`` is in seconds."""
    done = subprocess.run(
        [sys.executable, "-m", "florencectl.main", *arguments],
        capture_output=True,
        text=True,
        timeout=limit,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def get(kind: str, name: str, namespace: str = NAMESPACE) -> Document | None:
    """An object, or None when there is none."""
    text = kubectl("-n", namespace, "get", kind, name, "--ignore-not-found", "-o", "json")
    found: Document | None = json.loads(text) if text.strip() else None
    return found


def items(kind: str, namespace: str = NAMESPACE, labels: str = "") -> list[Document]:
    """All objects of a kind."""
    selector = ["-l", labels] if labels else []
    text = kubectl("-n", namespace, "get", kind, *selector, "-o", "json")
    found: list[Document] = json.loads(text)["items"]
    return found


def apply(document: Document) -> str:
    """Apply an object as a user would."""
    return kubectl("apply", "-f", "-", given=json.dumps(document))


@functools.cache
def children_kinds() -> tuple[str, ...]:
    """What the cluster serves of the kinds that attempts are made of, as kubectl takes them."""
    known = (
        *("pytorchjobs.kubeflow.org", "trainjobs.trainer.kubeflow.org"),
        *("trainingruntimes.trainer.kubeflow.org", "jobsets.jobset.x-k8s.io"),
    )
    names = {line.partition("/")[2] for line in kubectl("get", "crd", "-o", "name").split()}
    return tuple(kind for kind in known if kind in names)


def eventually(what: str, true: Callable[[], Any], *, timeout: float, pause: float = 0.5) -> Any:
    """The first truthy answer; fails with the cluster's story when there is none in time."""
    end = time.monotonic() + timeout
    while True:
        answer = true()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {timeout:.0f} s\n{story()}")
        time.sleep(pause)


def story() -> str:
    """What a person would look at when something went wrong."""
    parts = []
    for command in (
        ("-n", NAMESPACE, "get", ",".join(("fj", *children_kinds(), "pods")), "-o", "wide"),
        ("-n", NAMESPACE, "get", "events", "--sort-by=.lastTimestamp"),
        ("-n", NAMESPACE, "get", "fj", "-o", "yaml"),
        ("-n", SYSTEM, "get", "pods", "-o", "wide"),
        ("-n", SYSTEM, "logs", "-l", "app.kubernetes.io/name=florence-operator", "--tail=60"),
    ):
        try:
            parts.append(f"$ kubectl {' '.join(command)}\n{kubectl(*command)[-12_000:]}")
        except (KubectlError, subprocess.TimeoutExpired) as error:
            parts.append(f"$ kubectl {' '.join(command)}\n{error}")
    return "\n".join(parts)


@contextlib.contextmanager
def forwarded(service: str, port: int) -> Iterator[str]:
    """The address on this machine at which a Service of the jobs' namespace answers."""
    forward = subprocess.Popen(
        ["kubectl", "-n", NAMESPACE, "port-forward", f"service/{service}", f":{port}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert forward.stdout is not None
        found = re.search(r"127\.0\.0\.1:(\d+)", forward.stdout.readline())
        assert found, "kubectl port-forward did not say its port"
        yield f"http://127.0.0.1:{found[1]}"
    finally:
        forward.terminate()


class Machine:
    """Breaks what the cluster runs on: a program that takes ``kill N``, ``start N``, ``cut N``,
    ``mend N`` and runs on the machine where the cluster's processes are."""

    def __init__(self, program: Path) -> None:
        self._program = program

    @classmethod
    def found(cls) -> Machine | None:
        """The machine that ``FLORENCE_E2E_MACHINE`` names, if it names one."""
        program = os.environ.get("FLORENCE_E2E_MACHINE")
        return cls(Path(program)) if program else None

    def beside(self, name: str) -> Path:
        """A file beside the program, which need not be there."""
        return self._program.with_name(name)

    def __call__(self, action: str, node: int) -> None:
        subprocess.run([str(self._program), action, str(node)], check=True, timeout=300)

    def freeze(self, program: str) -> None:
        """Stop every process of a program without its knowing: sockets stay open and silent."""
        subprocess.run(["pkill", "-STOP", "-x", program], check=True)

    def thaw(self, program: str) -> None:
        """Let it go on."""
        subprocess.run(["pkill", "-CONT", "-x", program], check=True)
