"""List and fetch the files that a job stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florence.errors import ConfigurationError, FlorenceError
from florencectl.cluster import storage_access
from florencectl.cluster.connection import Place, on_cluster
from florencectl.cluster.errors import NotFoundError
from florencectl.cluster.jobs import get_job
from florencectl.output import Format, byte_size, note, print_list

if TYPE_CHECKING:
    from florence.storage import Entry, Storage
    from florence_operator.kube.client import Client

PIECE = 16 << 20


def list_files(
    place: Place,
    name: str,
    stage: str | None,
    path: str,
    endpoint: str | None,
    *,
    recursive: bool,
    output: Format,
) -> None:
    """Print the files below a path of the job's artifacts, or the folders with their sums."""
    storage, prefix, entries = _entries(place, name, stage, path, endpoint)
    rows = [_row(entry.key, entry.size, entry.modified) for entry in entries]
    if not recursive:
        rows = summed(entries, prefix)
    print_list(rows, ["size", "modified", "path"], output, name="path")
    note(f"in {storage.uri}")


def fetch_files(
    place: Place, name: str, stage: str | None, path: str, endpoint: str | None, directory: Path
) -> None:
    """Copy a file, or a folder with everything in it, into ``directory``."""
    storage, prefix, entries = _entries(place, name, stage, path, endpoint)
    total = 0
    for entry, target in targets(entries, prefix, directory):
        copy_file(storage, entry, target)
        total += entry.size
        print(target, flush=True)
    note(f"{len(entries)} files, {byte_size(total)}")


def summed(entries: Iterable[Entry], prefix: str) -> list[dict[str, Any]]:
    """What is directly below ``prefix``: files, and folders with the sum of what they hold."""
    found: dict[str, tuple[int, float]] = {}
    start = f"{prefix}/" if prefix else ""
    for entry in entries:
        if entry.key == prefix:
            name = entry.key
        else:
            first, slash, _ = entry.key[len(start) :].partition("/")
            name = f"{start}{first}{slash}"
        size, modified = found.get(name, (0, 0.0))
        found[name] = size + entry.size, max(modified, entry.modified)
    return [_row(name, *values) for name, values in found.items()]


def targets(entries: Sequence[Entry], prefix: str, directory: Path) -> Iterator[tuple[Entry, Path]]:
    """Each file with where it goes: under the name of the folder that was asked for.

    Raises:
        ConfigurationError: a key would leave the directory.
    """
    above = prefix.rpartition("/")[0]
    start = f"{above}/" if above else ""
    for entry in entries:
        relative = entry.key.removeprefix(start)
        if any(part in ("", ".", "..") for part in relative.split("/")) or "\\" in relative:
            raise ConfigurationError(
                f"{entry.key!r} is no name for a file here: fetch others by name"
            )
        yield entry, directory / relative


def _entries(
    place: Place, name: str, stage: str | None, path: str, endpoint: str | None
) -> tuple[Storage, str, list[Entry]]:
    """The storage of a job (or a stage), the path in it without slashes, and what is there."""

    async def prepared(client: Client, namespace: str) -> dict[str, Any]:
        job = await get_job(client, namespace, name)
        await storage_access.prepare_credentials(client, job)
        return job

    job = on_cluster(place, prepared)
    uri = storage_access.artifacts_uri(job)
    storage = storage_access.open_job_storage(job, f"{uri}/{stage}" if stage else uri, endpoint)
    prefix = path.strip("/")
    try:
        found = storage.list(prefix)
    except FlorenceError as error:
        raise type(error)(storage_access.explained(str(error), job, endpoint)) from None
    below = [e for e in found if not prefix or e.key == prefix or e.key.startswith(f"{prefix}/")]
    if not below:
        missing = f"{storage.url(prefix) if prefix else storage.uri}: nothing is there"
        raise NotFoundError(missing if found else storage_access.explained(missing, job, endpoint))
    return storage, prefix, below


def copy_file(storage: Storage, entry: Entry, target: Path) -> None:
    """Copy one file piece by piece; what is there under its name is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    with partial.open("wb") as file:
        for start in range(0, entry.size, PIECE):
            file.write(storage.read_range(entry.key, start, min(PIECE, entry.size - start)))
    partial.replace(target)


def _row(path: str, size: int, modified: float) -> dict[str, Any]:
    moment = datetime.fromtimestamp(modified, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"size": byte_size(size), "bytes": size, "modified": moment, "path": path}
