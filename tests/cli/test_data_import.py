"""``florencectl data import`` and ``data curate``: flags, reports, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from florence.curation.settings import Curation
from florence.data.importing.registry import FORMATS
from florence.data.shards import ShardSet
from florencectl.main import app
from tests.florence.data.making import picture, write_shards


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def csv(folder: Path, count: int, *extra: str) -> Path:
    lines = ["image,caption", *extra]
    for number in range(count):
        (folder / f"{number}.png").write_bytes(picture(number, 250, 240))
        lines.append(f"{number}.png,a text of row {number}")
    path = folder / "pairs.csv"
    path.write_text("\n".join(lines))
    return path


def test_a_table_becomes_shards_and_broken_rows_are_named(tmp_path: Path) -> None:
    path = csv(tmp_path, 4, "gone.png,x")
    result = run("import", "csv", path, tmp_path / "out", "--max-broken-fraction", "0.5")
    assert result.exit_code == 0, result.stderr
    table = [line.split() for line in result.stdout.splitlines()]
    assert table[1:] == [["rows", "5"], ["samples", "4"], ["broken", "rows", "1"]]
    assert f"{path} row 1: {tmp_path}/gone.png does not exist" in result.stderr
    assert len(ShardSet.open(str(tmp_path / "out"))) == 4
    again = run(
        "import", "csv", path, tmp_path / "out", "--max-broken-fraction", "0.5", "-o", "json"
    )
    assert json.loads(again.stdout)["samples"] == 4
    assert "was imported before" in again.stderr


def test_several_sources_come_before_the_target(tmp_path: Path) -> None:
    for part in ("a", "b"):
        (tmp_path / part / "cat").mkdir(parents=True)
        (tmp_path / part / "cat" / "0.png").write_bytes(picture(1))
    result = run("import", "class-folders", tmp_path / "a", tmp_path / "b", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert len(ShardSet.open(str(tmp_path / "out"))) == 2


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        ([], 3, "1 of 5 rows are broken"),
        (["--strict"], 3, "row 1: "),
        (["--text-column", "alt"], 2, "has no column 'alt', but image, caption"),
        (["--samples-per-shard", "0"], 2, "samplesPerShard"),
    ],
)
def test_failures_are_one_line_and_an_exit_code(
    tmp_path: Path, options: list[str], code: int, told: str
) -> None:
    path = csv(tmp_path, 4, "gone.png,x")
    result = run("import", "csv", path, tmp_path / "out", *options)
    assert result.exit_code == code
    (line,) = result.stderr.splitlines()
    assert told in line


def test_help_lists_every_format_with_its_settings_and_an_example() -> None:
    listed = run("import", "--help").stdout
    for name, kind in FORMATS.items():
        assert name in listed
        text = " ".join(run("import", name, "--help").stdout.split())
        for field in kind.settings.model_fields:
            assert f"--{field.replace('_', '-')}" in text
        # Without blanks: lines end after a hyphen too.
        assert f"import{name}{kind.example}".replace(" ", "") in text.replace(" ", "")
    text = " ".join(run("curate", "--help").stdout.split())
    for field in Curation.model_fields:
        assert f"--{field.replace('_', '-')}" in text


def test_curate_prints_what_went_and_why(tmp_path: Path) -> None:
    path = csv(tmp_path, 5)
    (tmp_path / "4.png").write_bytes((tmp_path / "3.png").read_bytes())
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "0.png").write_bytes((tmp_path / "0.png").read_bytes())
    assert run("import", "csv", path, tmp_path / "in").exit_code == 0
    arguments = ["curate", tmp_path / "in", tmp_path / "out", "--against", tmp_path / "test"]
    result = run(*arguments, "--processes", "1")
    assert result.exit_code == 0, result.stderr
    rows = {line.split("  ")[0]: line for line in result.stdout.splitlines()}
    assert "5" in rows["samples"]
    assert "shard-000000.tar:000000004 like shard-000000.tar row 3" in rows["exact duplicate"]
    assert f"like {tmp_path}/test/0.png" in rows["in an evaluation set"]
    document = json.loads(run(*arguments, "-o", "json", "--processes", "1").stdout)
    assert (document["samples"], document["kept"]) == (5, 3)
    assert document["dropped"]["exact duplicate"] == 1


def test_curate_says_what_is_wrong(tmp_path: Path) -> None:
    write_shards(tmp_path / "in", 3, 3)
    result = run("curate", tmp_path / "in", tmp_path / "out", "--processes", "1")
    assert result.exit_code == 3  # all are 24 pixels wide
    assert "no sample passes all filters" in result.stderr
    result = run("curate", tmp_path / "in", tmp_path / "out2", "--min-relevance", "0.2")
    assert result.exit_code == 2
    assert "relevanceModel and minRelevance need each other" in result.stderr
