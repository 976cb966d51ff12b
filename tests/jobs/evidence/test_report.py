"""What is kept of a worker is read again as it was written."""

from __future__ import annotations

from florence_jobs.evidence.report import (
    Evidence,
    Key,
    RankStacks,
    groups_of,
    key_of,
    ranks_of,
    stacks_text,
    taken_at,
)
from tests.jobs.evidence.test_stacks import READING, WAITING

EVIDENCE = Evidence(
    who="worker 1 of stage 'mixed', attempt 2",
    taken="2027-01-15T08:00:00Z",
    waited=14.4,
    ranks=[
        RankStacks(rank=6, process=12, main_thread=0x7F1F3B0F5740, text=WAITING),
        RankStacks(rank=7, process=13, main_thread=0x7F1F3B0F5740, text=READING),
        RankStacks(rank=8, process=14, main_thread=0x1, state="disk-sleep"),
    ],
    gpu_errors=["NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."],
    log_lines=["Step 7", "== stacks of rank 9, process 1, main thread 0x1", "the end"],
)


def test_the_ranks_are_read_again_and_no_line_of_the_log_is_taken_for_one() -> None:
    text = EVIDENCE.text()
    again = ranks_of(text)
    assert [each.rank for each in again] == [6, 7, 8]
    assert groups_of(again) == EVIDENCE.groups
    assert [each.state for each in again] == ["", "", "disk-sleep"]
    assert stacks_text(again[0]) == WAITING.strip("\n")
    assert stacks_text(again[2]) == "(no stacks: disk-sleep)"
    assert taken_at(text) == "2027-01-15T08:00:00Z"


def test_the_file_says_first_who_waits() -> None:
    lines = EVIDENCE.text().splitlines()
    assert lines[:2] == [
        "worker 1 of stage 'mixed', attempt 2",
        "taken 2027-01-15T08:00:00Z, 14 s after it was asked to stop",
    ]
    assert lines[4] == (
        "rank 6 waits in all_reduce (florence/stages/trainer.py:221 _count); "
        "rank 7 is in florence/data/shards.py:88 read; rank 8 gave no stacks"
    )
    assert "Xid (PCI:0000:3b:00): 79" in EVIDENCE.text()
    assert lines[-1] == "the end"


def test_other_text_has_no_ranks() -> None:
    assert ranks_of("") == []
    assert ranks_of("anything\n== else\n") == []
    assert taken_at("anything") is None


def test_names_say_whose_evidence_it_is() -> None:
    assert key_of("mixed/logs/attempt-2/worker-11.evidence.txt") == Key(2, 11, True)
    assert key_of("logs/attempt-2/worker-0.nccl-rank-3.pickle") == Key(2, 0, False)
    assert key_of("a3/worker-0.evidence.txt") == Key(3, 0, True)  # of a run on this machine
    assert key_of("logs/attempt-2/worker-0.log") is None
