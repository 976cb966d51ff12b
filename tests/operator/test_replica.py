from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from florence_operator.kube.client import LEASES
from florence_operator.replica import Replica, make_caches, server_names, with_progress_url
from florence_operator.runtime.authority import Step, renewed
from florence_operator.runtime.leader import utc_now
from florence_operator.runtime.metrics import Metrics
from florence_operator.settings import OperatorConfiguration
from tests.operator.fake_apiserver import FakeApiServer
from tests.operator.simulated_cluster import job_document


def test_pods_reach_the_service_of_the_operators_namespace_unless_told_otherwise() -> None:
    made = with_progress_url(OperatorConfiguration(), "ml-system")
    assert made.progress.url == "https://florence-operator.ml-system.svc:8443"
    told = OperatorConfiguration.model_validate({"progress": {"url": "https://there:1"}})
    assert with_progress_url(told, "x").progress.url == "https://there:1"


def test_what_could_be_heard_counts_from_the_beginning_of_the_lead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A standby may be days old when it takes over, and heard nothing in all of them."""
    seen: list[Any] = []
    monkeypatch.setattr(
        "florence_operator.replica.Reconciler",
        lambda *_, hears_since, **__: seen.append(hears_since) or SimpleNamespace(reconcile=None),
    )
    now = 1_000.0
    monkeypatch.setattr(
        "florence_operator.replica.time", SimpleNamespace(time=lambda: now, monotonic=lambda: now)
    )

    async def main() -> None:
        nonlocal now
        async with FakeApiServer() as server, server.client() as client:
            settings = with_progress_url(OperatorConfiguration(), "ns")
            caches = await make_caches(client, settings)
            metrics = Metrics(CollectorRegistry())
            replica = Replica(client, settings, caches, metrics, "ns", {})
            assert seen[0]() == 1_000
            now = 90_000
            replica._led(True)
            assert seen[0]() == 90_000

    asyncio.run(main())


@pytest.mark.parametrize(
    ("host", "names"),
    [
        (
            "fo.ns.svc",
            ["fo", "fo.ns", "fo.ns.svc", "fo.ns.svc.cluster.local"],
        ),
        ("progress.example.org", ["progress.example.org"]),
        ("localhost", ["localhost"]),
    ],
)
def test_the_certificate_is_for_every_name_of_the_service(host: str, names: list[str]) -> None:
    assert server_names(host) == names


@pytest.mark.parametrize(
    ("versions", "read"),
    [
        (["v1beta2"], "v1beta2"),
        (["v1beta1"], "v1beta1"),
        (["v1beta2", "v1beta1"], "v1beta2"),
        (["v2", "v1beta1"], "v1beta1"),
        (["v2"], None),
        ([], None),
    ],
)
def test_workloads_are_read_in_a_version_that_the_server_has(
    versions: list[str], read: str | None
) -> None:
    async def main() -> None:
        async with FakeApiServer() as server, server.client() as client:
            server.groups["kueue.x-k8s.io"] = versions
            caches = await make_caches(client, OperatorConfiguration())
            found = caches.workloads
            assert (found.resource.version if found is not None else None) == read

    asyncio.run(main())


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - it is the network's to bring about
            await asyncio.sleep(0.01)


def test_a_replica_leads_with_certificates_and_serves_each_to_whom_it_may(tmp_path: Path) -> None:
    """All parts together: an API server, a folder that gets certificates late, and four ports."""
    progress, webhook, health, metrics = free_ports(4)
    settings = OperatorConfiguration.model_validate(
        {
            "progress": {"url": f"https://localhost:{progress}", "port": progress},
            "webhook": {"port": webhook},
            "healthPort": health,
            "metrics": {"port": metrics},
            "certificates": {"directory": str(tmp_path)},
            "kueue": "off",
            "shutdownDelay": "0s",
        }
    )
    made = renewed(None, Step.MAKE, ["localhost"], utc_now())
    trust = ssl.create_default_context(cadata=made.authorities.decode())

    async def asked(session: aiohttp.ClientSession, port: int, path: str, **more: Any) -> Any:
        method = "POST" if "json" in more else "GET"
        url = f"https://localhost:{port}{path}"
        async with session.request(method, url, ssl=trust, **more) as answer:
            return answer.status, await answer.text()

    async def main() -> None:
        async with (
            FakeApiServer() as server,
            server.client() as client,
            aiohttp.ClientSession() as session,
        ):
            user = {"username": "prometheus"}
            server.tokens["scraper"] = {"authenticated": True, "user": user}
            caches = await make_caches(client, settings)
            registry = Metrics(CollectorRegistry())
            replica = Replica(client, settings, caches, registry, "ns", {"POD_NAME": "one"})
            manager = replica.manager()
            running = asyncio.create_task(manager.run())
            await until(lambda: manager.unready() == [f"{tmp_path} holds no certificate yet"])
            assert not server.all(LEASES)
            for name, value in (
                ("tls.crt", made.certificate),
                ("tls.key", made.key),
                ("ca.crt", made.authorities),
            ):
                (tmp_path / name).write_bytes(value)
            await replica.certificates.refresh()
            await until(lambda: server.all(LEASES) and manager.unready() == [])

            assert (await asked(session, metrics, "/metrics"))[0] == 401
            scraper = {"Authorization": "Bearer scraper"}
            status, text = await asked(session, metrics, "/metrics", headers=scraper)
            assert (status, "workqueue_depth" in text) == (200, True)
            assert (await asked(session, progress, "/progress", json={}))[0] == 401
            job = {**job_document(), "spec": {"stages": []}}
            request = {"uid": "u", "operation": "CREATE", "object": job}
            review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}
            status, text = await asked(
                session, webhook, "/validate", json={**review, "request": request}
            )
            assert (status, '"allowed": false' in text) == (200, True)
            manager.stop()
            assert await running == 0

    asyncio.run(main())
