from __future__ import annotations

import pytest

from florence.data.draft import Draft, digest_of
from florence.data.indexing import index_data
from florence.data.locations import list_shards
from florence.data.shard_writer import write_shard
from florence.data.shards import ShardSet
from florence.errors import ConfigurationError, DataError
from florence.storage import Storage
from tests.florence.data.making import sample

MADE = (".tar", "extra/")


def begin(storage: Storage, digest: str) -> Draft:
    return Draft.begin(storage, digest=digest, record="record.json", made=MADE)


def test_a_draft_is_no_data_until_it_is_finished(folder_storage: Storage) -> None:
    draft = begin(folder_storage, "a")
    write_shard(folder_storage, "0.tar", [sample(0)])
    for read in (list_shards, lambda s: index_data(s.uri), lambda s: ShardSet.open(s.uri)):
        with pytest.raises(DataError, match="unfinished"):
            read(folder_storage)
    with pytest.raises(DataError, match="unfinished"):
        ShardSet.open(f"{folder_storage.uri}/0.tar")
    draft.finish("record.json", {"n": 1})
    assert len(ShardSet.open(folder_storage.uri)) == 1


def test_it_goes_on_starts_over_or_refuses(any_storage: Storage) -> None:
    draft = begin(any_storage, "a")
    assert draft.state == {}
    assert draft.finished is None
    draft.save({"rows": 3})
    write_shard(any_storage, "0.tar", [sample(0)])
    any_storage.write("extra/x", b"")
    any_storage.write("users.txt", b"")

    again = begin(any_storage, "a")
    assert again.state == {"rows": 3}
    assert any_storage.size("0.tar")

    other = begin(any_storage, "b")  # another work: what the first made is gone, nothing else
    assert other.state == {}
    assert {entry.key for entry in any_storage.list()} == {"unfinished.json", "users.txt"}
    other.finish("record.json", {"n": 2})

    assert begin(any_storage, "b").finished == {"digest": "b", "n": 2}
    with pytest.raises(ConfigurationError, match="already holds something else"):
        begin(any_storage, "a")


def test_a_folder_with_other_content_is_refused(any_storage: Storage) -> None:
    any_storage.write("thesis.txt", b"")
    with pytest.raises(ConfigurationError, match="already holds something else"):
        begin(any_storage, "a")
    assert any_storage.size("unfinished.json") is None


def test_digests_ignore_the_order_of_keys_only() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert len({digest_of(1), digest_of("1"), digest_of([1]), digest_of(1, 2)}) == 4
