"""The table of causes, generated from :mod:`florence_operator.api.cause_texts`.

``python -m tools.causes [--check]`` writes it into docs/operations.md, or says that it is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path

from florence_operator.api.cause_texts import CAUSE_TEXTS
from florence_operator.api.failure import budget_of
from florence_operator.api.generated import write_or_check
from tools.generated_part import with_part

PAGE = Path(__file__).parents[1] / "docs/operations.md"


def table() -> str:
    """Every cause: what happened, what it is charged to, what to do."""
    lines = ["| cause | what happened | budget | what you do |", "|---|---|---|---|"]
    for cause, text in CAUSE_TEXTS.items():
        lines.append(f"| `{cause.value}` | {text.found} | {budget_of(cause)} | {text.todo} |")
    return "\n".join(lines)


def files() -> dict[Path, str]:
    """The page with its table."""
    return {PAGE: with_part(PAGE.read_text(encoding="utf-8"), "causes", table())}


if __name__ == "__main__":
    sys.exit(write_or_check(files(), check="--check" in sys.argv[1:]))
