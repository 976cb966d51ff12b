"""TLS material of the servers: read from a mounted Secret, or made here and kept in it."""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from florence_operator.kube.client import SECRETS, VALIDATING_WEBHOOKS, Client
from florence_operator.kube.errors import ApiError
from florence_operator.runtime.authority import (
    Material,
    Step,
    certificates_in,
    newest,
    next_step,
    renewed,
    trusts,
)
from florence_operator.runtime.leader import utc_now
from florence_operator.runtime.webserver import ServerTls

FILES = {
    "certificate": "tls.crt",
    "key": "tls.key",
    "authorities": "ca.crt",
    "authority_key": "ca.key",
}
POLL_SECONDS = 10.0
MOUNT_SECONDS = 120.0
INJECT_SECONDS = 300.0
RENEW_SECONDS = 3600.0

log = logging.getLogger(__name__)


class Certificates:
    """Keeps the servers' certificate current on every replica.

    When ``self_made`` is set and the folder is empty, each replica makes the material and tries to
    write it; the Secret takes the first. The others wait until the folder shows that one.
    """

    def __init__(
        self,
        client: Client,
        *,
        directory: Path,
        namespace: str,
        secret: str,
        names: Sequence[str],
        self_made: bool = False,
        webhook: str | None = None,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.tls = ServerTls()
        self.loaded = asyncio.Event()
        """Set when there is a certificate to serve with."""
        self._client = client
        self._directory = directory
        self._namespace = namespace
        self._secret = secret
        self._names = tuple(names)
        self._self_made = self_made
        self._webhook = webhook
        self._now = now
        self._sleep = sleep
        self._made: Material | None = None
        self._used: Material | None = None
        self._tried = float("-inf")
        self._injected: tuple[bytes, float] = (b"", float("-inf"))

    @property
    def authorities(self) -> str:
        """What clients of the servers have to trust, in PEM; empty until it is known."""
        return self._used.authorities.decode() if self._used else ""

    async def run(self) -> None:
        """Follows the folder until it is cancelled; on every replica."""
        while True:
            try:
                await self.refresh()
            except (ApiError, OSError, ValueError, ssl.SSLError) as error:
                log.warning("the certificates could not be brought up to date: %s", error)
            await self._sleep(POLL_SECONDS)

    async def run_renewal(self) -> None:
        """Renews what comes to its end until it is cancelled; on the leader only."""
        while True:
            try:
                await self.renew()
            except (ApiError, OSError, ValueError, ssl.SSLError) as error:
                log.warning("the certificates could not be renewed: %s", error)
            await self._sleep(RENEW_SECONDS)

    async def refresh(self) -> None:
        """Loads what there is, makes it where there is nothing, and tells the webhook."""
        mounted = await asyncio.to_thread(read_material, self._directory)
        now = self._now()
        # A mount shows what was written after about a minute. If it is empty after that, somebody
        # has emptied the Secret.
        if mounted is None and self._self_made and now.timestamp() - self._tried > MOUNT_SECONDS:
            made = self._made or renewed(None, Step.MAKE, self._names, now)
            await self._write(None, made)
            self._tried = now.timestamp()
        self._use(newest(mounted, self._made))
        await self._inject()

    async def renew(self) -> None:
        """Does what :func:`next_step` says about the material in use."""
        used = self._used
        step = next_step(used, self._names, self._now())
        if not self._self_made or used is None or step is Step.KEEP:
            return
        log.info("certificates: %s", step)
        await self._write(used, renewed(used, step, self._names, self._now()))
        self._use(newest(used, self._made))
        await self._inject()

    async def _write(self, old: Material | None, new: Material) -> None:
        """Writes the Secret, unless another replica was faster."""
        try:
            await self._client.patch(
                SECRETS, self._secret, self._namespace, secret_patch(old, new), kind="json"
            )
        except ApiError as error:
            if error.status != 422:
                raise
            log.info("secret %s is filled already; the mount will show it", self._secret)
        else:
            self._made = new

    def _use(self, material: Material | None) -> None:
        if material is None or material == self._used:
            return
        if not certificates_in(material.authorities):
            # Clients would have nothing to check the servers by.
            raise ValueError("ca.crt: holds no certificate")
        self.tls.load(material.certificate, material.key)
        self._used = material
        self.loaded.set()
        log.info("loaded the certificate of the servers")

    async def _inject(self) -> None:
        """Lets the API server trust our webhook."""
        if self._webhook is None or self._used is None:
            return
        authorities, now = self._used.authorities, self._now().timestamp()
        if self._injected[0] == authorities and now - self._injected[1] < INJECT_SECONDS:
            return
        configuration = await self._client.get(VALIDATING_WEBHOOKS, self._webhook)
        patch = webhook_patch(configuration, authorities)
        if patch:
            await self._client.patch(VALIDATING_WEBHOOKS, self._webhook, None, patch, kind="json")
        self._injected = (authorities, now)


def read_material(directory: Path) -> Material | None:
    """What the mounted folder holds; None while it is not complete."""
    contents = {}
    for field, name in FILES.items():
        file = directory / name
        contents[field] = file.read_bytes() if file.is_file() else b""
    if not contents["certificate"] or not contents["key"]:
        return None
    # An authority that everybody knows has no file of its own: the chain is what to trust then.
    contents["authorities"] = contents["authorities"] or contents["certificate"]
    return Material(**contents)


def secret_patch(old: Material | None, new: Material) -> list[dict[str, Any]]:
    """A JSON patch that is refused unless the Secret still holds ``old``, or nothing."""
    data = {name: _text(getattr(new, field)) for field, name in FILES.items()}
    if old is None:
        test = {"op": "test", "path": "/data", "value": None}
    else:
        test = {"op": "test", "path": "/data/tls.crt", "value": _text(old.certificate)}
    return [test, {"op": "add", "path": "/data", "value": data}]


def webhook_patch(configuration: dict[str, Any], authorities: bytes) -> list[dict[str, Any]]:
    """A JSON patch that adds the authorities to webhooks that do not trust them; or none."""
    patch: list[dict[str, Any]] = []
    for number, webhook in enumerate(configuration.get("webhooks") or ()):
        bundle = base64.b64decode(webhook.get("clientConfig", {}).get("caBundle") or "")
        if trusts(bundle, authorities):
            continue
        path = f"/webhooks/{number}"
        patch += [
            {"op": "test", "path": f"{path}/name", "value": webhook["name"]},
            {"op": "add", "path": f"{path}/clientConfig/caBundle", "value": _text(authorities)},
        ]
    return patch


def _text(pem: bytes) -> str:
    return base64.b64encode(pem).decode()
