from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from florence_operator.runtime.store import REMEMBERED, Change, Key, Store, version_of


def thing(name: str, version: int, owner: str = "", namespace: str = "lab") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": namespace, "resourceVersion": str(version)},
        "owner": owner,
    }


# A history of a server: each step creates or changes an object, or deletes it.
histories = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "y", None])), max_size=12
)


@given(histories, st.data())
def test_whatever_the_order_of_what_it_hears_the_newest_wins(
    history: list[tuple[str, str | None]], data: st.DataObject
) -> None:
    """Watch events come in order; answers of writes come at any time, before or after them."""
    store = Store({"owner": lambda document: [document["owner"]]})
    answers: list[dict[str, Any]] = []
    truth: dict[str, dict[str, Any]] = {}
    for version, (name, owner) in enumerate(history, start=1):
        if owner is None:
            truth.pop(name, None)
        else:
            truth[name] = thing(name, version, owner)
            answers.append(truth[name])
            if data.draw(st.booleans()):
                store.put(answers[-1])
        if owner is None:
            store.remove(Key("lab", name), version)
        else:
            store.put(truth[name])
        if answers and data.draw(st.booleans()):
            store.put(data.draw(st.sampled_from(answers)))
        assert {d["metadata"]["name"]: d for d in store.all()} == truth
        for owner in ("x", "y"):
            expected = [d for d in truth.values() if d["owner"] == owner]
            found = store.by_index("owner", owner)
            assert sorted(map(version_of, found)) == sorted(map(version_of, expected))


def test_versions_are_numbers() -> None:
    store = Store()
    store.put(thing("a", 10))
    assert store.put(thing("a", 9)) is None
    assert store.put(thing("a", 10)) is None
    assert store.put(thing("a", 100)) is not None


def test_what_is_missing_from_a_list_was_deleted_unless_it_is_newer() -> None:
    store = Store()
    for name, version in (("old", 5), ("kept", 6), ("new", 30)):
        store.put(thing(name, version))
    store.put(thing("other", 5, namespace="elsewhere"))
    changes = store.retain({Key("lab", "kept")}, "lab", 20)
    assert changes == [Change(thing("old", 5), None)]
    assert len(store) == 3
    assert store.put(thing("old", 20)) is None
    assert store.put(thing("old", 21)) is not None


def test_deletions_are_forgotten_in_the_end() -> None:
    now = [0.0]
    store = Store(clock=lambda: now[0])
    for number in range(1000):
        store.remove(Key("lab", f"n{number}"), number)
        now[0] += 1.0
    assert len(store._deleted) <= REMEMBERED + 1


def test_a_server_that_was_restored_is_believed_from_its_next_list_on() -> None:
    store = Store()
    for name, version in (("changed", 900), ("gone", 950), ("same", 400)):
        store.put(thing(name, version))
    store.remove(Key("lab", "deleted"), 990)
    store.put(thing("other", 995, namespace="elsewhere"))
    assert (store.newest("lab"), store.newest("")) == (990, 995)
    store.start_anew("lab")
    assert store.newest("lab") == 0
    assert store.put(thing("changed", 450, owner="restored")) is not None
    assert store.put(thing("deleted", 480)) is not None
    assert store.put(thing("same", 400)) is not None
    # A write's answer from before the restore comes late: as little as of any other old one.
    changes = store.retain({Key("lab", n) for n in ("changed", "deleted", "same")}, "lab", 500)
    assert [change.old for change in changes] == [thing("gone", 950)]
    assert (store.newest("lab"), store.newest("elsewhere")) == (500, 995)
    # From now on versions count again.
    assert store.put(thing("changed", 449)) is None
    assert store.put(thing("changed", 501)) is not None
