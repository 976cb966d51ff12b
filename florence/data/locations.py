"""From the URI of a data set to the shards it names."""

from __future__ import annotations

from florence.data.draft import refuse_unfinished
from florence.errors import DataError
from florence.storage import Entry, Storage


def locate(uri: str) -> tuple[str, str | None]:
    """The storage URI of the shards' folder, and the one shard in it that is meant, if only one is.

    A ``builtin:…`` URI is none yet: :func:`florence.data.builtin.resolve` makes it one.
    """
    if uri.endswith(".tar"):
        folder, slash, name = uri.rpartition("/")
        return (folder or ("/" if slash else ".")), name
    return uri, None


def list_shards(storage: Storage, only: str | None = None) -> list[Entry]:
    """The shards of a storage, by name. Raises :class:`DataError` when there is none."""
    return shards_among(storage, storage.list(only or ""), only)


def shards_among(storage: Storage, entries: list[Entry], only: str | None = None) -> list[Entry]:
    """The shards among a storage's entries.

    Raises:
        DataError: there is none, or they are an import's that has not ended.
    """
    refuse_unfinished(storage)
    shards = [e for e in entries if e.key.endswith(".tar") and only in (None, e.key)]
    if shards:
        return shards
    where = storage.url(only) if only else storage.uri
    packed = [e.key for e in entries if e.key.endswith((".tar.gz", ".tgz", ".tar.zst"))]
    if packed:
        raise DataError(
            f"{where} holds compressed shards ({packed[0]}), which cannot be read by ranges: "
            "unpack them to .tar"
        )
    raise DataError(f"{where} holds no shards (*.tar): check the URI")
