"""Pass progress on to the leader: a Service brings it to any replica, only the leader uses it."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import aiohttp

from florence_operator.runtime.leader import Leader

_TIMEOUT = aiohttp.ClientTimeout(total=10, sock_connect=3)


class LeaderForward:
    """Posts to the replica that holds the lease, whose identity is ``<pod>/<address>``.

    Args:
        port: where every replica serves progress.
        server_name: a name that the replicas' certificates are for.
        authorities: who signs them, in PEM.
    """

    def __init__(
        self, leader: Leader, port: int, server_name: str, authorities: Callable[[], str]
    ) -> None:
        self._leader = leader
        self._port = port
        self._server_name = server_name
        self._authorities = authorities

    async def __call__(self, body: bytes, authorization: str) -> tuple[int, bytes]:
        """The leader's answer.

        Raises:
            OSError: nobody leads, or the leader does not answer.
        """
        address = self._leader.holder.rpartition("/")[2]
        if not address or self._leader.holder == self._leader.identity:
            raise OSError("no replica leads at the moment")
        host = f"[{address}]" if ":" in address else address
        context = ssl.create_default_context(cadata=self._authorities())
        headers = {"Authorization": authorization, "Content-Type": "application/json"}
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as session,
                session.post(
                    f"https://{host}:{self._port}/progress",
                    data=body,
                    headers=headers,
                    ssl=context,
                    server_hostname=self._server_name,
                    allow_redirects=False,
                ) as response,
            ):
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OSError(f"the leader {self._leader.holder} does not answer: {error}") from None
