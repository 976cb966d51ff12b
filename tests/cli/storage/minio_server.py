"""A MinIO of one's own: the program that FLORENCE_MINIO names, or ``minio`` on the path."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.gang import free_port

USER, PASSWORD = "root-of-tests", "password-of-tests"
PROGRAM = os.environ.get("FLORENCE_MINIO") or shutil.which("minio")


@contextmanager
def minio(folder: Path) -> Iterator[str]:
    """Its address while it runs; nothing is in it."""
    assert PROGRAM
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    words = ["server", str(folder / "data"), "--address", f"127.0.0.1:{port}"]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "MINIO_ROOT_USER": USER,
        "MINIO_ROOT_PASSWORD": PASSWORD,
        "MINIO_BROWSER": "off",
    }
    log = folder / "minio.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [PROGRAM, *words], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait(server, address, log)
        yield address
    finally:
        server.terminate()
        server.wait(60)


def _wait(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/minio/health/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise AssertionError(f"MinIO did not start: {log.read_text(errors='replace')}")
