from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from florence.data import digit_clips, digit_scenes
from florencectl.main import app
from tests.florence.data.making import sample, write_samples, write_shards


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["data", *arguments])


def test_index_prints_the_statistics(tmp_path: Path) -> None:
    write_shards(tmp_path, 10, 4)
    result = run("index", str(tmp_path), "-o", "json", "--workers", "1")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["statistics"]["images"] == 10
    assert document["statistics"]["uniqueQueries"] == 7
    assert document["problems"] == []
    assert len(list(tmp_path.glob("*.tar.idx"))) == 3
    table = run("index", str(tmp_path), "--workers", "1").stdout
    assert ["images", "10"] in [line.split() for line in table.splitlines()]


def test_check_names_what_is_broken_and_exits_with_3(tmp_path: Path) -> None:
    write_samples(tmp_path / "a.tar", [sample(0), sample(1, png=b"?"), sample(2, txt=b"\xff")])
    for output in ("table", "json", "yaml"):
        result = run("check", str(tmp_path), "-o", output, "--workers", "1")
        assert result.exit_code == 3
        assert str(tmp_path) in result.stderr
        assert "2 problems in 1 shards" in result.stderr
        if output == "table":
            assert "a.tar" in result.stdout
            assert "00001.png" in result.stdout
        else:
            document = yaml.safe_load(result.stdout)
            members = [(p["shard"], p["member"]) for p in document["problems"]]
            assert members == [("a.tar", "00001.png"), ("a.tar", "00002.txt")]
    write_samples(tmp_path / "a.tar", [sample(0)])
    result = run("check", str(tmp_path), "--workers", "1")
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("command", ["index", "check"])
@pytest.mark.parametrize("damage", ["cut off", "no tar", "an empty text"])
def test_what_is_wrong_is_named_and_exits_with_3(tmp_path: Path, command: str, damage: str) -> None:
    write_shards(tmp_path, 8, 4)
    shard = tmp_path / "00001.tar"
    if damage == "an empty text":
        write_samples(shard, [sample(4), sample(5, txt=b"")])
    else:
        data = shard.read_bytes()
        shard.write_bytes(data[: len(data) // 2] if damage == "cut off" else b"x" * 2000)
    for again in range(2):
        result = run(command, str(tmp_path), "-o", "json", "--workers", "1")
        assert result.exit_code == 3, again
        assert f"{tmp_path}: 1 problem in 2 shards" in result.stderr
        (problem,) = json.loads(result.stdout)["problems"]
        assert problem["shard"] == "00001.tar"
        assert {"no tar": "not an uncompressed tar"}.get(damage, damage) in problem["reason"]


@pytest.mark.parametrize("command", ["index", "check"])
def test_a_folder_without_shards_is_one_line(tmp_path: Path, command: str) -> None:
    result = run(command, str(tmp_path / "nothing"))
    assert result.exit_code == 3
    (line,) = result.stderr.splitlines()
    assert f"{tmp_path}/nothing holds no shards" in line


def test_digits_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digit_clips, "ACTION_COUNTS", {"train": 16, "test": 8})
    monkeypatch.setattr(digit_scenes, "COUNTS", {"train": 40, "test": 10})
    monkeypatch.setattr(digit_clips, "PAIR_COUNTS", {"train": 10, "test": 5})
    result = run("digits", str(tmp_path), "-o", "json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["samples"] == {
        "train": 1400,
        "test": 397,
        "chalk/train": 5600,
        "chalk/test": 397,
        "scenes/train": 40,
        "scenes/test": 10,
        "questions/train": 4000,
        "questions/test": 400,
        "actions/train": 16,
        "actions/test": 8,
        "pairs/train": 10,
        "pairs/test": 5,
    }
    assert (tmp_path / "scenes" / "instances_test.json").is_file()
    assert len(list((tmp_path / "scenes" / "images" / "train").iterdir())) == 40
    assert len(list((tmp_path / "pairs" / "videos").iterdir())) == 15
    assert (tmp_path / "actions" / "test.csv").read_text().count("\n") == 9
    checked = run("check", str(tmp_path / "test"), "--workers", "1", "-o", "json")
    assert json.loads(checked.stdout)["statistics"]["classes"] == 10
