from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from florence_operator.kube.client import SECRETS, VALIDATING_WEBHOOKS, Client
from florence_operator.runtime.authority import Step, renewed, service_names
from florence_operator.runtime.certificates import Certificates, read_material, webhook_patch
from florence_operator.runtime.webserver import WebServer
from tests.operator.fake_apiserver import FakeApiServer

NAMES = service_names("florence-operator", "florence")
SECRET = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "florence-operator-tls", "namespace": "florence"},
}


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


def replica(client: Client, directory: Path, clock: Clock, **options: Any) -> Certificates:
    return Certificates(
        client,
        directory=directory,
        namespace="florence",
        secret="florence-operator-tls",
        names=NAMES,
        self_made=True,
        now=clock,
        **options,
    )


def mount(server: FakeApiServer, directory: Path) -> None:
    """What the kubelet does some time after a Secret was written."""
    secret = server.get(SECRETS, "florence", "florence-operator-tls")
    assert secret is not None
    directory.mkdir(exist_ok=True)
    for name, value in (secret.get("data") or {}).items():
        (directory / name).write_bytes(base64.b64decode(value))


def test_of_two_replicas_one_makes_the_certificates(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        async with FakeApiServer() as server, server.client() as client:
            server.put(SECRET)
            replicas = [replica(client, tmp_path / name, clock) for name in "ab"]
            await asyncio.gather(*(each.refresh() for each in replicas))
            assert [each.loaded.is_set() for each in replicas].count(True) == 1
            loser = next(each for each in replicas if not each.loaded.is_set())
            await loser.refresh()
            assert not loser.loaded.is_set()
            assert server.counts()["PATCH"] == 2
            for name in "ab":
                mount(server, tmp_path / name)
            await asyncio.gather(*(each.refresh() for each in replicas))
            assert all(each.loaded.is_set() for each in replicas)
            assert len({each.authorities for each in replicas}) == 1
            assert "BEGIN CERTIFICATE" in replicas[0].authorities
            assert server.counts()["PATCH"] == 2

    asyncio.run(main())


def test_the_winner_serves_before_its_mount_shows_anything(tmp_path: Path) -> None:
    async def main() -> None:
        async with FakeApiServer() as server, server.client() as client:
            server.put(SECRET)
            one = replica(client, tmp_path / "a", Clock())
            await one.refresh()
            before = one.authorities
            await one.refresh()
            assert one.loaded.is_set()
            mount(server, tmp_path / "a")
            await one.refresh()
            assert one.authorities == before

    asyncio.run(main())


def test_a_secret_that_somebody_emptied_is_filled_again(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        async with FakeApiServer() as server, server.client() as client:
            server.put(SECRET)
            one = replica(client, tmp_path / "a", clock)
            await one.refresh()
            server.put(SECRET)
            await one.refresh()
            assert server.counts()["PATCH"] == 1
            clock.now += timedelta(minutes=3)
            await one.refresh()
            mount(server, tmp_path / "a")
            shown = read_material(tmp_path / "a")
            assert shown is not None
            assert shown.authorities.decode() == one.authorities

    asyncio.run(main())


def test_troubles_with_the_secret_are_tried_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with FakeApiServer() as server, server.client() as client:
            refreshed = asyncio.Event()

            async def sleep(seconds: float) -> None:
                if one.loaded.is_set():
                    refreshed.set()
                    await asyncio.sleep(1000)
                server.put(SECRET)

            one = replica(client, tmp_path / "a", Clock(), sleep=sleep)
            server.fail(500)
            task = asyncio.create_task(one.run())
            await asyncio.wait_for(refreshed.wait(), 120)
            task.cancel()

    asyncio.run(main())


def test_the_leader_renews_and_the_others_follow_their_mounts(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        async with FakeApiServer() as server, server.client() as client:
            server.put(SECRET)
            leader, other = (replica(client, tmp_path / name, clock) for name in "ab")
            await leader.refresh()
            mount(server, tmp_path / "a")
            mount(server, tmp_path / "b")
            await other.refresh()
            writes = server.counts()["PATCH"]
            await leader.renew()
            assert server.counts()["PATCH"] == writes
            clock.now += timedelta(days=61)
            await leader.renew()
            await leader.renew()
            assert server.counts()["PATCH"] == writes + 1
            mount(server, tmp_path / "b")
            shown = read_material(tmp_path / "b")
            assert shown is not None
            assert shown.certificate != (tmp_path / "a" / "tls.crt").read_bytes()
            await leader.refresh()
            await other.refresh()
            assert leader._used == other._used == shown

            # Another leader has meanwhile renewed what this one still has.
            late = replica(client, tmp_path / "a", clock)
            await late.refresh()
            await late.renew()
            assert server.get(SECRETS, "florence", "florence-operator-tls") == (
                server.put(server.get(SECRETS, "florence", "florence-operator-tls") or {})
            )
            mount(server, tmp_path / "a")
            await late.refresh()
            assert late._used == shown

    asyncio.run(main())


def test_a_new_certificate_is_served_without_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        async def hello(_: web.Request) -> web.Response:
            return web.Response(text="hello")

        async with FakeApiServer() as server, server.client() as client:
            server.put(SECRET)
            clock = Clock()
            certificates = replica(client, tmp_path / "a", clock)
            await certificates.refresh()
            mount(server, tmp_path / "a")

            async def served(port: int) -> bytes:
                trust = ssl.create_default_context(cadata=certificates.authorities)
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=trust, server_hostname=NAMES[0]
                )
                writer.write(b"GET / HTTP/1.0\r\n\r\n")
                assert (await reader.read()).endswith(b"hello")
                certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(True)
                writer.close()
                return certificate

            routes = [("GET", "/", hello)]
            tls = certificates.tls
            async with WebServer(routes, port=0, host="127.0.0.1", tls=tls) as web_server:
                first = await served(web_server.port)
                assert await served(web_server.port) == first
                old = read_material(tmp_path / "a")
                clock.now += timedelta(seconds=1)
                new = renewed(old, Step.RENEW_SERVER, NAMES, clock.now)
                (tmp_path / "a" / "tls.crt").write_bytes(new.certificate)
                # The files change one after the other: half of a pair must not break anything.
                with contextlib.suppress(ssl.SSLError):
                    await certificates.refresh()
                assert await served(web_server.port) == first
                (tmp_path / "a" / "tls.key").write_bytes(new.key)
                await certificates.refresh()
                assert await served(web_server.port) != first

    asyncio.run(main())


def test_the_webhook_is_told_whom_to_trust(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        async with FakeApiServer() as server, server.client() as client:
            server.put(SECRET)
            server.put(
                {
                    "apiVersion": "admissionregistration.k8s.io/v1",
                    "kind": "ValidatingWebhookConfiguration",
                    "metadata": {"name": "florence-operator"},
                    "webhooks": [{"name": "jobs.florence.dev", "clientConfig": {}}],
                }
            )
            one = replica(client, tmp_path / "a", clock, webhook="florence-operator")

            def bundle() -> str:
                found = server.get(VALIDATING_WEBHOOKS, "", "florence-operator")
                assert found is not None
                return base64.b64decode(found["webhooks"][0]["clientConfig"]["caBundle"]).decode()

            await one.refresh()
            assert bundle() == one.authorities
            requests = len(server.requests)
            await one.refresh()
            assert len(server.requests) == requests

            # Somebody applied the manifest again, which has no bundle.
            found = server.get(VALIDATING_WEBHOOKS, "", "florence-operator")
            assert found is not None
            found["webhooks"][0]["clientConfig"] = {}
            server.put(found)
            clock.now += timedelta(minutes=6)
            await one.refresh()
            assert bundle() == one.authorities

    asyncio.run(main())


def test_a_bundle_that_trusts_more_is_left_alone() -> None:
    ours, theirs = (renewed(None, Step.MAKE, NAMES, datetime.now(UTC)) for _ in range(2))
    both = base64.b64encode(theirs.authorities + ours.authorities).decode()
    configuration = {"webhooks": [{"name": "a", "clientConfig": {"caBundle": both}}]}
    assert webhook_patch(configuration, ours.authorities) == []


def test_certificates_of_somebody_else_are_only_read(tmp_path: Path) -> None:
    async def main() -> None:
        material = renewed(None, Step.MAKE, NAMES, datetime.now(UTC))
        (tmp_path / "tls.crt").write_bytes(material.certificate)
        (tmp_path / "tls.key").write_bytes(material.key)
        (tmp_path / "ca.crt").write_bytes(material.authorities)
        async with FakeApiServer() as server, server.client() as client:
            one = replica(client, tmp_path, Clock())
            one._self_made = False
            await one.refresh()
            await one.renew()
            assert one.loaded.is_set()
            assert server.requests == []

    asyncio.run(main())


@pytest.mark.parametrize("bundle", [b" \n", b"not a certificate"])
def test_authorities_that_nobody_could_check_anything_by_are_not_used(
    tmp_path: Path, bundle: bytes
) -> None:
    async def main() -> None:
        material = renewed(None, Step.MAKE, NAMES, datetime.now(UTC))
        (tmp_path / "tls.crt").write_bytes(material.certificate)
        (tmp_path / "tls.key").write_bytes(material.key)
        (tmp_path / "ca.crt").write_bytes(bundle)
        async with FakeApiServer() as server, server.client() as client:
            one = replica(client, tmp_path, Clock())
            with pytest.raises(ValueError, match=r"ca.crt: holds no certificate"):
                await one.refresh()
            assert not one.loaded.is_set()
            assert one.authorities == ""
            # An empty one is left out by authorities that everybody knows.
            (tmp_path / "ca.crt").write_bytes(b"")
            await one.refresh()
            assert one.authorities.encode() == material.certificate

    asyncio.run(main())
