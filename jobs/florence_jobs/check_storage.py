"""Can pods of this image reach the storage and the tracking server? What ``doctor`` runs in a pod.

python -m florence_jobs.check_storage --uri s3://florence/runs --endpoint http://minio:9000

Prints one JSON object a check: ``{"check": …, "ok": true, "message": …}``.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator

from florence.config.storage import S3Settings
from florence.errors import FlorenceError
from florence.storage import Storage, open_storage

_TIMEOUT = 10.0


def checks(storage: Storage, mlflow: str | None) -> Iterator[tuple[str, bool, str]]:
    """Each check with whether it held and what was seen."""
    key, body = f"doctor/{uuid.uuid4().hex}", b"florence"
    for name, act in (
        ("storage write", lambda: storage.write(key, body)),
        ("storage read", lambda: _same(storage.read(key), body)),
        ("storage delete", lambda: storage.delete(key)),
    ):
        ok, message = _attempt(act, storage.url(key))
        yield name, ok, message
        if not ok:
            break
    if mlflow:
        yield "mlflow", *_attempt(lambda: _answers(f"{mlflow.rstrip('/')}/health"), mlflow)


def _same(read: bytes, written: bytes) -> None:
    if read != written:
        raise OSError(f"read {len(read)} other bytes than the {len(written)} written")


def _answers(url: str) -> None:
    with urllib.request.urlopen(url, timeout=_TIMEOUT):
        pass


def _attempt(act: Callable[[], object], where: str) -> tuple[bool, str]:
    try:
        act()
    except (FlorenceError, urllib.error.URLError, OSError, ValueError) as error:
        text = str(error)
        return False, text if where in text else f"{where}: {text}"
    return True, where


def main(arguments: list[str]) -> int:
    """Run the checks; 0 when all of them held."""
    parser = argparse.ArgumentParser(prog="florence_jobs.check_storage")
    parser.add_argument("--uri", required=True)
    parser.add_argument("--endpoint")
    parser.add_argument("--region")
    parser.add_argument("--mlflow")
    options = parser.parse_args(arguments)
    try:
        storage = open_storage(
            options.uri, S3Settings(endpoint=options.endpoint, region=options.region)
        )
    except FlorenceError as error:
        print(json.dumps({"check": "storage", "ok": False, "message": str(error)}), flush=True)
        return 1
    held = True
    for name, ok, message in checks(storage, options.mlflow):
        print(json.dumps({"check": name, "ok": ok, "message": message}), flush=True)
        held = held and ok
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
