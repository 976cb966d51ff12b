from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from florence.storage import Entry
from florencectl.storage.layout import owner_of
from florencectl.storage.usage import By, documents, usage

keys = st.builds(
    "/".join,
    st.tuples(
        st.sampled_from(["team", "web"]),
        st.sampled_from(["a-deadbeef", "local", "notes"]),
        st.sampled_from(["mixed", "clean"]),
        st.sampled_from(["metrics.json", "logs/x", "commits/1-1.json", "model/m", "own.txt"]),
    ),
)


@given(st.dictionaries(keys, st.integers(0, 10**12)), st.sampled_from(By))
def test_sums_are_those_of_loops_and_nothing_is_lost(sizes: dict[str, int], by: By) -> None:
    entries = [Entry(key, size, 0.0) for key, size in sizes.items()]
    found = usage(entries, by)
    assert sum(each.bytes for each in found) == sum(sizes.values())
    for each in found:
        alike = []
        for entry in entries:
            owner = owner_of(entry.key)
            whole = (owner.namespace, owner.folder, owner.stage, owner.kind.value)
            if whole[: len(each.group)] == each.group:
                alike.append(entry.size)
        assert (each.objects, each.bytes) == (len(alike), sum(alike))
    assert [each.group for each in found] == sorted({each.group for each in found})


def test_what_belongs_to_no_job_has_no_name() -> None:
    found = usage([Entry("team/notes.txt", 3, 0.0)], By.STAGE)
    assert documents(found, By.STAGE) == [
        {"namespace": "team", "job": None, "stage": None, "objects": 1, "bytes": 3}
    ]
