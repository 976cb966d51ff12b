"""Which cluster is meant, and a client of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from florence_operator.kube.client import Client

T = TypeVar("T")

MANAGER = "florencectl"
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


@dataclass(frozen=True, slots=True)
class Place:
    """A cluster and a namespace, as far as the user said which."""

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None


def is_configured(
    place: Place,
    environment: Mapping[str, str] = os.environ,
    service_account: Path = _SERVICE_ACCOUNT,
) -> bool:
    """Whether the user named a cluster, now or by a kubeconfig that kubectl would find."""
    if place.kubeconfig or place.context or service_account.is_file():
        return True
    paths = environment.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    return any(Path(path).expanduser().is_file() for path in paths.split(os.pathsep) if path)


def on_cluster(
    place: Place,
    work: Callable[[Client, str], Awaitable[T]],
    *,
    within: float | None = None,
) -> T:
    """Run ``work`` with a client and the namespace that is meant.

    Raises:
        ModuleNotFoundError: the cluster extra is not installed.
        TimeoutError: it took longer than ``within`` seconds.
    """
    from florence_operator.kube.client import Client

    async def connected() -> T:
        client = await Client.connect(
            kubeconfig=place.kubeconfig,
            context=place.context,
            user_agent=f"florencectl/{version('florence')}",
        )
        async with client:
            return await work(client, place.namespace or client.namespace)

    task: Coroutine[Any, Any, T] = connected()
    return asyncio.run(asyncio.wait_for(task, within) if within else task)
