"""The operator as a process of this machine, and what it says of itself, for benchmarks."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from florence_operator.runtime.authority import Step, renewed
from florence_operator.runtime.leader import utc_now

_COUNTERS = {
    "looks": r"controller_runtime_reconcile_total\{.*\}",
    "writes": r"florence_status_writes_total\{.*\}",
    "reports": r'florence_progress_reports_total\{result="taken"\}',
    "requests": r"rest_client_requests_total\{.*\}",
}


class OperatorProcess:
    """The operator without webhook and leader election; it takes reports on localhost over TLS.

    Args:
        folder: where its certificate, settings and log go.
        port: the first of three that it uses.
        environment: what it has besides this process's, such as KUBECONFIG.
        settings: its settings besides those that a process outside of a cluster needs.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        environment: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        made = renewed(None, Step.MAKE, ["localhost"], utc_now())
        for name, value in (
            ("tls.crt", made.certificate),
            ("tls.key", made.key),
            ("ca.crt", made.authorities),
        ):
            (folder / name).write_bytes(value)
        self.authorities = made.authorities.decode()
        self.reports_url = f"https://localhost:{port}/progress"
        self._health, self._metrics = port + 1, port + 2
        needed = {
            "leaderElection": {"enabled": False},
            "webhook": {"enabled": False},
            "progress": {"port": port, "url": f"https://localhost:{port}"},
            "certificates": {"directory": str(folder)},
            "healthPort": self._health,
            "metrics": {"port": self._metrics, "protected": False},
            "shutdownDelay": "0s",
            "kueue": "off",
        }
        (folder / "config.yaml").write_text(json.dumps({**needed, **(settings or {})}))
        self._environment = {"POD_NAMESPACE": "florence-system", "POD_NAME": "bench"}
        self._environment |= environment or {}
        self._folder = folder

    async def start(self) -> float:
        """Start it; returns the seconds until it was ready."""
        began = time.monotonic()
        self._process = self._run()
        self._usage = psutil.Process(self._process.pid)
        while not await asyncio.to_thread(self._ready):
            if self._process.poll() is not None:
                raise SystemExit((self._folder / "log").read_text())
            await asyncio.sleep(0.02)
        return time.monotonic() - began

    def _run(self) -> subprocess.Popen[bytes]:
        with open(self._folder / "log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "florence_operator", "--config", "config.yaml"],
                cwd=self._folder,
                env={**os.environ, **self._environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    async def stop(self) -> None:
        """Stop it as Kubernetes would."""
        self._process.terminate()
        await asyncio.to_thread(self._process.wait, 60)

    def _ready(self) -> bool:
        try:
            url = f"http://127.0.0.1:{self._health}/readyz"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def cpu_seconds(self) -> float:
        """CPU time used so far."""
        times = self._usage.cpu_times()
        return float(times.user + times.system)

    def megabytes(self) -> float:
        """Resident memory."""
        return float(self._usage.memory_info().rss) / 1e6

    async def counted(self) -> dict[str, float]:
        """Looks, writes, reports and requests so far."""
        text = await asyncio.to_thread(self._metrics_text)
        return {
            name: sum(float(value) for value in re.findall(rf"^{pattern} (\S+)$", text, re.M))
            for name, pattern in _COUNTERS.items()
        }

    async def requests(self) -> Counter[str]:
        """Requests to the API server so far, by verb."""
        text = await asyncio.to_thread(self._metrics_text)
        counted: Counter[str] = Counter()
        for labels, value in re.findall(r"^rest_client_requests_total{(.*)} (\S+)$", text, re.M):
            verb = re.search(r'method="([^"]+)"', labels)
            counted[verb[1] if verb else "?"] += int(float(value))
        return counted

    def _metrics_text(self) -> str:
        url = f"http://127.0.0.1:{self._metrics}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())
