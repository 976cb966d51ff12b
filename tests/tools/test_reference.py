from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from florence.config.base import Settings, setting, settings_group
from florence.config.evaluate import Evaluate
from florence.kinds import KINDS
from florence_operator.api.crd import structural_schema
from tools import reference
from tools.reference import Fields, Row

ROOT = Path(__file__).parents[2]


class Inner(Settings):
    """A group."""

    rate: float = setting(0.5, description="how fast", unit="m/s", gt=0, le=1)
    names: tuple[str, ...] = setting((), description="names | words")


class Example(Settings):
    """Every sort of field."""

    count: int = setting(description="how many", ge=1 << 20)
    mode: Literal["slow", "fast"] = setting("slow", description="how")
    note: str | None = setting(None, description="said")
    size: str | int | None = setting(None, description="how large")
    on: bool = setting(True, description="whether")
    inner: Inner = settings_group(Inner, description="a group")
    maybe: Inner | None = setting(None, description="or not")
    many: tuple[Inner, ...] = setting((), description="a list")
    pair: tuple[float, float] = setting((1.0, 0.25), description="two")
    by_name: dict[str, int] = setting({}, description="a map")


def test_every_sort_of_field() -> None:
    rows = {row.path: row for row in Fields(Example).rows()}
    assert rows["count"] == Row("count", "integer ≥ 1048576", "", "required", "how many")
    assert rows["mode"] == Row("mode", "`slow` or `fast`", "", "`slow`", "how")
    assert rows["note"] == Row("note", "string", "", "none", "said")
    assert rows["size"].type == "string or integer"
    assert rows["on"].default == "`true`"
    assert rows["inner"] == Row("inner", "object", "", "", "a group")
    assert rows["inner.rate"] == Row("inner.rate", "number > 0, ≤ 1", "m/s", "`0.5`", "how fast")
    assert "maybe.rate" in rows
    assert rows["many"] == Row("many", "list of object", "", "`[]`", "a list")
    assert "many[].names" in rows
    assert (rows["pair"].type, rows["pair"].default) == ("2 of number", "`[1, 0.25]`")
    assert (rows["byName"].type, rows["byName"].default) == ("map of integer", "`{}`")


def test_a_bar_does_not_end_a_cell() -> None:
    (row,) = (row for row in Fields(Inner).rows() if row.path == "names")
    assert row.line("1.2.3").replace("\\|", "").count("|") == 7


def test_a_model_with_a_section_of_its_own_is_referred_to() -> None:
    rows = Fields(Example, stop_at={"Inner": "see there"}).rows()
    assert [row.path for row in rows if row.path.startswith(("inner.", "maybe."))] == []
    assert {row.description for row in rows if row.path == "maybe"} == {"or not; see there"}


def test_the_page_is_fresh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main([str(ROOT / "docs/reference.md"), "--check"]) == 0
    stale = tmp_path / "reference.md"
    stale.write_text(reference.reference().replace("optimizer.lr", "optimizer.rate"))
    assert reference.main([str(stale), "--check"]) == 1
    assert "is stale" in capsys.readouterr().err
    assert reference.main([str(stale)]) == 0
    assert reference.main([str(stale), "--check"]) == 0


def test_since_when_a_field_exists_is_noted_at_a_release(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"1.2.3": ["spec.image", "spec.gone"]}))
    reference.note_release("1.3.0", record)
    known = reference.released(record)
    assert known["1.2.3"] == ["spec.image"]
    assert "spec.model.preset" in known["1.3.0"]
    every = [field for fields in known.values() for field in fields]
    assert sorted(every) == sorted(reference.every_field())
    assert len(set(every)) == len(every)
    reference.note_release("1.3.0", record)  # a release that is tried again
    assert reference.released(record) == known


def test_every_field_says_since_when_it_exists() -> None:
    (rows,) = (s for s in reference.sections() if s.title == "spec")
    shown = rows.text({"spec.image": "1.2.3"})
    assert "| `image` | string |  | none | 1.2.3 | container image" in shown
    assert "| `model.preset` | string |  | `coswin-t` | next | one of" in shown
    fields = [line for line in page().splitlines() if line.startswith("| `")]
    assert fields
    assert all(re.search(r" \| (next|\d+\.\d+\.\d+) \| \S", line) for line in fields), fields
    about = page().split("## spec.stages[].pretrain\n")[1].split("\n|")[0]
    assert re.search(r" Since \d+\.\d+\.\d+\.\n", about)


def test_what_is_recorded_as_released_exists() -> None:
    """A field that is gone breaks documents: it leaves the record when that is meant."""
    recorded = {field for fields in reference.released().values() for field in fields}
    assert recorded <= set(reference.every_field())


def paths_of(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Every field below a schema of the CRD, as the reference writes paths."""
    for name, field in schema.get("properties", {}).items():
        where = f"{path}.{name}" if path else name
        yield where
        yield from paths_of(field, where)
        yield from paths_of(field.get("items", {}), f"{where}[]")
        more = field.get("additionalProperties")
        yield from paths_of(more if isinstance(more, dict) else {}, f"{where}{{}}")


@cache
def page() -> str:
    """The whole page, made once for all tests."""
    return reference.reference()


def section(title: str) -> set[str]:
    """The paths in a section of the page."""
    text = f"\n{page()}".split(f"\n## {title}\n")[1].split("\n## ")[0]
    return {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}


def test_no_field_of_the_crd_is_missing() -> None:
    crd = structural_schema()["properties"]
    stage = crd["spec"]["properties"].pop("stages")["items"]
    assert section("status") == set(paths_of(crd["status"]))
    assert section("spec") == set(paths_of(crd["spec"]))
    kinds = {name: stage["properties"].pop(name) for name in KINDS}
    assert section("spec.stages[]") == set(paths_of(stage))
    shared = section("What every training stage sets")
    lists = {
        f"{name}[].{path}"
        for name in Evaluate.model_json_schema()["properties"]
        if (title := f"evaluations.{name}[]") in page()
        for path in section(title)
    }
    for name, schema in kinds.items():
        known = section(f"spec.stages[].{name}") | shared | lists
        known |= {f"evaluation.{path}" for path in lists}
        evaluate = {row.path for row in Fields(Evaluate).rows()}
        known |= evaluate | {f"evaluation.{path}" for path in evaluate}
        missing = set(paths_of(schema)) - known
        assert not missing


def test_every_exit_code_of_an_error_is_there() -> None:
    table = reference.exit_codes()
    for code in (0, 1, 2, 3, 4, 75, 137, 143):
        assert f"\n| {code} | " in table
    assert (
        "| 3 | Data is missing or unusable; the message names the URI. | UnusableData | final |"
        in (table)
    )


def test_every_model_says_what_its_fields_are() -> None:
    """A row without words is of no use: what is written must be in the models."""
    for kind in KINDS.values():
        assert issubclass(kind.settings, BaseModel)
        assert [row.path for row in Fields(kind.settings).rows() if not row.description] == []
