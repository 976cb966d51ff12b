"""HTTP servers on this machine: whether a port is free, whether one answers, and what."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Mapping
from typing import Any

from florence.errors import ConfigurationError

HOST = "127.0.0.1"

# This machine is reached without a proxy, whatever the environment says.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def require_free(port: int, host: str = HOST) -> None:
    """Refuse a port that something on this machine listens on."""
    with socket.socket() as probe:
        # As the server does: a port whose last connection just ended is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"port {port} of {host} is taken ({error.strerror}): choose another one with --port"
            ) from None


def is_up(url: str, *, wait: float) -> bool:
    """Whether the URL is answered; waits for so many seconds when it is not."""
    try:
        with _OPENER.open(url, timeout=10):
            return True
    except OSError:
        time.sleep(wait)
        return False


def answer(url: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """What a JSON interface answers."""
    request = urllib.request.Request(
        url, json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    with _OPENER.open(request, timeout=30) as response:
        found: dict[str, Any] = json.load(response)
    return found
