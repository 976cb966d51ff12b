"""What may go: judged against plain loops, over many small buckets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence.errors import ConfigurationError
from florence.storage import Entry
from florencectl.storage.deleting import jobs_of
from florencectl.storage.garbage import Decision, Jobs, decide
from tests.cli.cluster_objects import job

HEX = "0" * 32
FOLDERS = ("team/a-deadbeef", "team/a-12345678", "web/a-deadbeef", "web/a-20261126", "team/local")
SAVE, DEAD_SAVE = f"data/step-20/1-{HEX}/shard", f"data/step-40/1-{HEX}/shard"
COMMIT = f"commits/{20:012d}-1.json"
MODEL, DEAD_MODEL = f"model/1-{HEX}/m", f"model/2-{HEX}/m"
RESTS = (
    *(SAVE, DEAD_SAVE, COMMIT, "attempts/1.json", MODEL, DEAD_MODEL, "model/commit-1.json"),
    *("metrics.json", "logs/attempt-1/worker-0.log", "own/notes.txt"),
)
NOW, DAY = 1_000_000.0, 86_400.0


def stored(folder: str, *rests: str, modified: float = 0.0) -> list[Entry]:
    return [Entry(f"{folder}/mixed/{rest}", 1, modified) for rest in rests]


def deleted(decision: Decision) -> list[str]:
    return [entry.key for part in decision.parts for entry in part.entries]


buckets = st.dictionaries(
    st.tuples(st.sampled_from(FOLDERS), st.sampled_from(RESTS)),
    st.sampled_from([0.0, NOW - DAY - 1, NOW - DAY + 1, NOW]),
)


@given(
    bucket=buckets,
    existing=st.frozensets(st.sampled_from(FOLDERS)),
    named=st.frozensets(st.sampled_from(["team/a", "web/a"])),
    namespaces=st.sampled_from([None, frozenset({"team"}), frozenset({"team", "web"})]),
    mentioned=st.lists(st.sampled_from(FOLDERS)),
    everything=st.booleans(),
)
def test_only_what_is_old_and_of_a_job_that_is_gone_goes(
    bucket: dict[tuple[str, str], float],
    existing: frozenset[str],
    named: frozenset[str],
    namespaces: frozenset[str] | None,
    mentioned: list[str],
    everything: bool,
) -> None:
    entries = [Entry(f"{f}/mixed/{r}", 1, modified) for (f, r), modified in bucket.items()]
    jobs = Jobs(
        existing, named, [f"s3://b/runs/{folder}/mixed/model" for folder in mentioned], namespaces
    )
    decision = decide(entries, jobs, now=NOW, older_than=DAY, everything=everything)
    gone = deleted(decision)
    assert len(gone) == len(set(gone))
    expected = set()
    for folder in FOLDERS[:3]:  # the others are no cluster's jobs
        there = {rest: modified for (f, rest), modified in bucket.items() if f == folder}
        job_name = folder.rpartition("-")[0]
        alive = folder in existing or job_name in named or folder in mentioned
        alive = alive or (namespaces is not None and folder.partition("/")[0] not in namespaces)
        if alive or any(modified > NOW - DAY for modified in there.values()):
            continue
        if not set(there) - {"own/notes.txt"}:
            continue  # nothing says that it is a job's
        for rest in there:
            checkpoint = rest.startswith(("data/", "commits/", "attempts/"))
            uncommitted = rest == DEAD_MODEL or (
                rest == MODEL and "model/commit-1.json" not in there
            )
            if everything or checkpoint or uncommitted:
                expected.add(f"{folder}/mixed/{rest}")
    assert set(gone) == expected


def test_dying_at_any_moment_leaves_no_commit_that_names_missing_data() -> None:
    entries = stored("team/a-deadbeef", *RESTS)
    decision = decide(entries, Jobs(), now=NOW, older_than=DAY, everything=True)
    order = [key.removeprefix("team/a-deadbeef/mixed/") for key in deleted(decision)]
    assert set(order) == set(RESTS)
    assert order.index(COMMIT) < order.index(SAVE)
    assert order.index("model/commit-1.json") < order.index(MODEL)


def test_the_reasons_of_what_stays_are_told() -> None:
    old, new = "team/old-deadbeef", "team/new-deadbeef"
    entries = [
        *stored("team/a-12345678", SAVE, COMMIT),
        *stored("team/a-deadbeef", MODEL, "model/commit-1.json"),
        *stored(old, "metrics.json"),
        *stored(new, SAVE, modified=NOW),
    ]
    jobs = Jobs(frozenset({"team/a-12345678"}), texts=["… s3://b/runs/team/a-deadbeef/mixed …"])
    decision = decide(entries, jobs, now=NOW, older_than=DAY, everything=False)
    assert {folder.path: reason for folder, reason in decision.kept} == {
        "team/a-12345678": "the job exists",
        "team/a-deadbeef": "a job that exists names it",
        old: "models, logs and results only",
        new: "written to lately",
    }
    assert decision.parts == ()


def test_jobs_are_known_by_their_uid_and_by_what_they_say() -> None:
    start = {"uri": "s3://florence/runs/team/base-deadbeef/mixed"}
    jobs = jobs_of([job(initialModel=start)], ["web/hand", "web/other-12345678"])
    assert jobs.folders == {"team/big-12345678", "web/other-12345678"}
    assert jobs.names == {"web/hand", "web/other-12345678"}
    entries = stored("team/base-deadbeef", SAVE) + stored("team/big-deadbeef", SAVE)
    decision = decide(entries, jobs, now=NOW, older_than=DAY, everything=True)
    assert [part.folder.path for part in decision.parts] == ["team/big-deadbeef"]
    with pytest.raises(ConfigurationError, match="NAMESPACE/NAME"):
        jobs_of([], ["digits"])
