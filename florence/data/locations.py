"""From the URI of a data set to the shards it names."""

from __future__ import annotations

from florence.data.builtin import resolve
from florence.data.draft import refuse_unfinished
from florence.errors import DataError
from florence.storage import Entry, Storage


def locate(uri: str) -> tuple[str, str | None]:
    """The storage URI of the shards' folder, and the one shard in it that is meant, if only one is.

    ``builtin:…`` URIs become the folder of shards that is made on first use.
    """
    uri = resolve(uri)
    if uri.endswith(".tar"):
        folder, slash, name = uri.rpartition("/")
        return (folder or ("/" if slash else ".")), name
    return uri, None


def list_shards(storage: Storage, only: str | None = None) -> list[Entry]:
    """The shards of a storage, by name.

    Raises:
        DataError: there is none, or they are an import's that has not ended.
    """
    refuse_unfinished(storage)
    entries = storage.list(only or "")
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
