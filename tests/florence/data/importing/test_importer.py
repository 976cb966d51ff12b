"""Broken rows, determinism, kills and second runs."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from florence.data.importing.importer import import_data
from florence.data.importing.registry import import_format
from florence.data.shards import ShardSet
from florence.errors import ConfigurationError, DataError
from tests.florence.data.making import picture

CSV = import_format("csv")


def table(folder: Path, count: int, broken: dict[int, str] | None = None) -> Path:
    """A csv with ``count`` rows; ``broken`` replaces lines by number from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for n in range(count):
        (folder / f"{n}.png").write_bytes(picture(n))
        lines.append((broken or {}).get(n + 1, f"{n}.png,text {n}"))
    path = folder / "t.csv"
    path.write_text("image,caption\n" + "\n".join(lines) + "\n")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix != ".idx"}


def run(path: Path, out: Path, **settings: Any) -> Any:
    return import_data(CSV, [str(path)], str(out), CSV.settings(**settings))


BROKEN = {
    2: "missing.png,text",
    3: "bad.png,text",
    4: "0.png",
    5: "0.png,",
    6: ",text",
    7: "https://example.org/x.png,text",
    8: "../../x.png,text",
}


def test_broken_rows_are_counted_and_named_with_what_to_do(tmp_path: Path) -> None:
    path = table(tmp_path / "in", 10, BROKEN)
    (tmp_path / "in" / "bad.png").write_bytes(b"GIF89a")
    done = run(path, tmp_path / "out", max_broken_fraction=0.7)
    assert (done.rows, done.samples, done.broken) == (10, 3, 7)
    told = dict(line.split(": ", 1) for line in done.broken_rows)
    assert list(told) == [f"{path} row {n}" for n in range(2, 9)]
    reasons = list(told.values())
    for part, reason in zip(
        [
            "missing.png does not exist: add",
            "not a JPEG, PNG or WebP file: replace",
            "has 1 fields instead of 2",
            "'caption' is empty: write",
            "no image is named",
            "img2dataset",
            "use relative names",
        ],
        reasons,
        strict=True,
    ):
        assert part in reason
    assert json.loads((tmp_path / "out/import.json").read_text())["brokenRows"] == list(
        done.broken_rows
    )
    shards = ShardSet.open(str(tmp_path / "out"))
    assert [shards.read(i).text for i in range(3)] == ["text 0", "text 8", "text 9"]


def test_too_many_broken_rows_fail_and_leave_no_data(tmp_path: Path) -> None:
    path = table(tmp_path / "in", 10, {1: "missing.png,x"})
    with pytest.raises(DataError, match=r"1 of 10 rows are broken.*row 1: .*missing\.png"):
        run(path, tmp_path / "out")
    with pytest.raises(DataError, match="unfinished"):
        ShardSet.open(str(tmp_path / "out"))
    with pytest.raises(DataError, match=r"row 1: .*strict"):
        run(path, tmp_path / "out", strict=True, max_broken_fraction=1)
    assert run(path, tmp_path / "out", max_broken_fraction=0.1).broken == 1


def test_mended_rows_are_read_after_a_failure(tmp_path: Path) -> None:
    path = table(tmp_path / "in", 9, {1: "late.png,x", 2: "late.png,y"})
    with pytest.raises(DataError, match="2 of 9"):
        run(path, tmp_path / "out", samples_per_shard=2)
    (tmp_path / "in" / "late.png").write_bytes(picture(77))
    assert run(path, tmp_path / "out", samples_per_shard=2).broken == 0
    run(path, tmp_path / "whole", samples_per_shard=2)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_decode_finds_cut_off_images(tmp_path: Path) -> None:
    path = table(tmp_path / "in", 4)
    whole = picture(1, 200, 200)
    (tmp_path / "in" / "1.png").write_bytes(whole[: len(whole) // 2])
    assert run(path, tmp_path / "header").broken == 0
    done = run(path, tmp_path / "decoded", decode=True, max_broken_fraction=0.5)
    assert done.broken == 1
    assert "broken image" in done.broken_rows[0]


def test_images_are_copied_to_the_byte_unless_they_are_to_be_smaller(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    path = table(folder, 2)
    (folder / "1.png").write_bytes(picture(1, 300, 100))
    run(path, tmp_path / "out", shorter_side=32)
    shards = ShardSet.open(str(tmp_path / "out"))
    small, large = (shards.read(i) for i in range(2))
    assert small.image_bytes == picture(0)
    image = Image.open(io.BytesIO(large.image_bytes))
    assert (image.format, image.size) == ("JPEG", (96, 32))
    assert (large.meta["width"], large.meta["height"]) == (96, 32)


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    path = table(tmp_path / "in", 30, {4: "missing.png,x"})
    for name, workers in (("a", 1), ("b", 8)):
        run(path, tmp_path / name, workers=workers, samples_per_shard=7, max_broken_fraction=1)
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    for known in ("import.json",):  # differs in the setting workers
        assert json.loads(first.pop(known))["rows"] == json.loads(second.pop(known))["rows"]
    assert first == second
    assert len([name for name in first if name.endswith(".tar")]) == 5


def test_a_second_run_changes_nothing_and_another_source_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "in", 5)
    assert not run(path, tmp_path / "out").known
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.tar")}
    assert run(path, tmp_path / "out", workers=1).known
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.tar")} == stamps
    with pytest.raises(ConfigurationError, match="already holds something else"):
        run(path, tmp_path / "out", samples_per_shard=2)
    with pytest.raises(ConfigurationError, match="lies inside its source"):
        import_data(import_format("webdataset"), [str(tmp_path / "out")], str(tmp_path / "out/x"))


CHILD = """
import sys
from florence.data.importing.importer import import_data
from florence.data.importing.registry import import_format
kind = import_format("csv")
def stop(name, rows, samples):
    if name == "shard-000002.tar":
        print("there", flush=True)
        sys.stdin.read()
import_data(kind, [sys.argv[1]], sys.argv[2], kind.settings(samples_per_shard=3), on_shard=stop)
"""


def test_a_killed_import_goes_on_after_its_last_shard(tmp_path: Path) -> None:
    path = table(tmp_path / "in", 20)
    out = tmp_path / "out"
    command = [sys.executable, "-c", CHILD, str(path), str(out)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"there\n"
        child.send_signal(signal.SIGKILL)
    with pytest.raises(DataError, match="unfinished"):
        ShardSet.open(str(out))
    before = {p: p.stat().st_mtime_ns for p in out.glob("*.tar")}
    assert len(before) == 3
    written = []
    known = CSV.settings(samples_per_shard=3)
    import_data(CSV, [str(path)], str(out), known, on_shard=lambda n, r, s: written.append((n, s)))
    assert written == [(f"shard-{n:06d}.tar", min(20, 3 * n + 3)) for n in range(3, 7)]
    assert {p: p.stat().st_mtime_ns for p in before} == before
    run(path, tmp_path / "whole", samples_per_shard=3)
    assert contents(out) == contents(tmp_path / "whole")


def test_other_settings_start_over(tmp_path: Path) -> None:
    path = table(tmp_path / "in", 9, {9: "missing.png,x"})
    with pytest.raises(DataError):
        run(path, tmp_path / "out", samples_per_shard=2)
    run(path, tmp_path / "out", samples_per_shard=8, max_broken_fraction=1)
    run(path, tmp_path / "whole", samples_per_shard=8, max_broken_fraction=1)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
