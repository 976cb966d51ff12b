"""Keys are told apart as the code that writes them makes them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from florence.checkpoint.manifest import CommitId, attempt_key, new_prefix
from florence.storage import Entry
from florence_operator.api.artifacts import artifacts_uri
from florence_operator.api.manifest import from_cluster
from florencectl.storage.layout import (
    Folder,
    Kind,
    by_folder,
    is_commit,
    job_folder,
    owner_of,
    saves_without_commit,
)
from tests.cli.cluster_objects import job

TRY = f"model/2-{'a' * 32}"


def test_what_a_stage_writes_has_its_kind() -> None:
    commit = CommitId(step=20, attempt=1)
    for rest, kind in {
        f"{new_prefix(20, 1)}/rank-0.safetensors": Kind.CHECKPOINT,
        commit.key: Kind.CHECKPOINT,
        attempt_key(3): Kind.CHECKPOINT,
        f"{TRY}/model.safetensors": Kind.MODEL,
        "model/commit-2.json": Kind.MODEL,
        "logs/attempt-1/worker-0.log": Kind.LOG,
        "tensorboard/events.out.tfevents.1": Kind.TENSORBOARD,
        "metrics.json": Kind.RESULT,
        "pictures/confusion.png": Kind.RESULT,
    }.items():
        owner = owner_of(f"team/big-12345678/mixed/{rest}")
        assert (owner.namespace, owner.folder, owner.stage) == ("team", "big-12345678", "mixed")
        assert (owner.kind, owner.rest) == (kind, rest)
        assert is_commit(f"team/big-12345678/mixed/{rest}") == ("commit" in rest)


def test_the_folder_is_the_one_that_the_operator_names() -> None:
    made = from_cluster(job(artifacts={"uri": "s3://florence/runs"}))
    key = artifacts_uri(made, "mixed").removeprefix("s3://florence/runs/") + "/metrics.json"
    owner = owner_of(key)
    folder = job_folder(owner.namespace, owner.folder)
    assert folder == Folder("team", "big-12345678")
    assert (folder.job, owner.stage) == ("big", "mixed")


def test_names_of_people_are_no_jobs_of_a_cluster() -> None:
    for name in ("digits", "digits-20261126", "digits-1234567", "digits-1234567G", "-12345678"):
        assert job_folder("team", name) is None
    for name in ("digits-20261399", "a.b-deadbeef", "x-00000000"):
        assert job_folder("team", name) is not None


def test_a_folder_without_anything_of_a_stage_is_nobodys() -> None:
    mine = [Entry("team/data-deadbeef/a.tar", 1, 0.0), Entry("team/data-deadbeef/x/b.tar", 1, 0.0)]
    assert by_folder(mine) == {}
    run = Entry("team/data-deadbeef/x/metrics.json", 1, 0.0)
    assert by_folder([*mine, run]) == {Folder("team", "data-deadbeef"): [*mine, run]}


@given(st.lists(st.sampled_from(["team", "x-deadbeef", "mixed", "data", "model", "", "É", "a b"])))
def test_every_key_is_somebodys_and_nothing_of_it_is_lost(parts: list[str]) -> None:
    key = "/".join(parts)
    owner = owner_of(key)
    named = [part for part in (owner.namespace, owner.folder, owner.stage) if part]
    assert "/".join([*named, owner.rest]) == key


attempts = st.tuples(st.integers(0, 3), st.integers(1, 3))


@given(saves=st.lists(attempts), commits=st.lists(attempts), models=st.sets(st.integers(1, 3)))
def test_saves_without_commit_are_those_that_a_loop_finds(
    saves: list[tuple[int, int]], commits: list[tuple[int, int]], models: set[int]
) -> None:
    written = [(c, f"{new_prefix(*c)}/shard") for c in saves]
    tries = [(number, f"model/{number}-{'b' * 32}/config.json") for number in (1, 2, 3)]
    keys = [
        *(key for _, key in written),
        *(CommitId(*c).key for c in commits),
        *(key for _, key in tries),
        *(f"model/commit-{number}.json" for number in models),
        "model/model.safetensors",
        "metrics.json",
    ]
    expected = {key for c, key in written if c not in commits}
    expected |= {key for number, key in tries if number not in models}
    assert saves_without_commit(keys) == expected
