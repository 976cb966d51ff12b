"""What the page of coverage names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = [
    line
    for line in (ROOT / "docs" / "coverage.md").read_text("utf-8").splitlines()
    if re.match(r"\| [SP]\d\d", line)
]


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", "\n".join(ROWS))
    assert len(named) > 30
    for path, name in named:
        assert f"def {name}(" in (ROOT / "tests" / path).read_text("utf-8"), f"{path}::{name}"


def test_every_job_that_is_named_exists() -> None:
    for path in re.findall(r"`(jobs/samples/[\w-]+\.yaml)`", "\n".join(ROWS)):
        assert (ROOT / path).is_file()


def test_claims_come_once_and_those_of_the_seed_are_all_there_but_one() -> None:
    claims = [claim for line in ROWS for claim in re.findall(r"[SP]\d\d", line.split("|")[1])]
    assert len(set(claims)) == len(claims)
    # S09 says what came after the paper: there is nothing to show.
    seed = {f"S{number:02}" for number in range(1, 49)} - {"S09"}
    assert set(claims) == seed | {f"P{number:02}" for number in range(1, 12)}
