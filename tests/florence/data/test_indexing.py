"""Indexing, statistics and checking, against a brute-force reading of the same tars."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from florence.data import indexing
from florence.data.index import ShardIndex
from florence.data.indexing import Indexed, check_data, index_data
from florence.data.manifest import CLASSES, NAME
from florence.errors import DataError, TransientError
from florence.storage import Entry, FolderStorage, Storage
from florence.text.normalisation import canonical
from florence.text.tokenizer import encode
from tests.florence.data.making import (
    as_version_1,
    picture,
    sample,
    write_samples,
    write_shards,
    write_tar,
)


def reasons(found: Indexed) -> dict[str, str]:
    return {f"{p.shard}:{p.member}": p.reason for p in found.problems}


TEXTS = st.sampled_from(["cat", "Cat ", "a dog", "big red cat", "é&amp;", " ", "x y z w"])


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), TEXTS),
            st.one_of(st.none(), TEXTS),
            st.sampled_from([None, "cats", "CATS", "dogs"]),
            st.sampled_from([None, "0", "7", "a tree"]),
        ),
        min_size=1,
        max_size=20,
    ),
    st.integers(1, 7),
)
@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_statistics_equal_a_brute_force_count(tmp_path_factory, rows, per_shard) -> None:
    folder = tmp_path_factory.mktemp("data")
    texts, queries, classes, samples = [], set(), [], []
    for i, (text, caption, query, label) in enumerate(rows):
        meta = {k: v for k, v in (("caption", caption), ("query", query)) if v is not None}
        changes = {
            "txt": text.encode() if text is not None else None,
            "json": json.dumps(meta).encode(),
            "cls": label.encode() if label is not None else None,
        }
        samples.append(sample(i, **changes))
        is_name = label is not None and not label.isdigit()
        found = text if text is not None else caption or (label if is_name else None) or ""
        if caption is not None and text is None:
            found = caption
        if canonical(found):
            texts.append(canonical(found))
        if query:
            queries.add(query.lower())
        if label is not None and not is_name:
            classes.append(int(label))
    for number, start in enumerate(range(0, len(samples), per_shard)):
        write_samples(folder / f"{number}.tar", samples[start : start + per_shard])

    statistics = index_data(str(folder)).statistics
    assert statistics.images == len(rows)
    assert statistics.texts == len(texts)
    assert statistics.unique_texts == len(set(texts))
    assert statistics.pairs_with_shared_text == sum(texts.count(t) > 1 for t in texts)
    assert statistics.unique_queries == len(queries)
    assert statistics.tokens == sum(len(encode(t)) for t in texts)
    assert statistics.short_texts == sum(len(t.split()) <= 2 for t in texts)
    assert (statistics.labelled, statistics.classes) == (len(classes), len(set(classes)))


def test_indexing_again_reads_only_what_changed(tmp_path: Path) -> None:
    write_shards(tmp_path, 6, 2)
    index_data(str(tmp_path))
    dates = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.idx")}
    write_samples(tmp_path / "00001.tar", [sample(7), sample(8), sample(9)])
    found = index_data(str(tmp_path))
    changed = {p.name for p in tmp_path.glob("*.idx") if p.stat().st_mtime_ns != dates[p.name]}
    assert changed == {"00001.tar.idx"}
    assert found.statistics.images == 7
    (tmp_path / "00002.tar.idx").write_bytes(b"rubbish")
    assert index_data(str(tmp_path)).statistics == found.statistics
    manifest = json.loads((tmp_path / NAME).read_text())
    assert manifest["statistics"] == found.statistics.wire()


def test_worker_processes_give_the_same_files(tmp_path: Path) -> None:
    write_shards(tmp_path / "a", 6, 2)
    write_shards(tmp_path / "b", 6, 2)
    progress: list[tuple[int, int, str]] = []
    index_data(str(tmp_path / "a"))
    index_data(str(tmp_path / "b"), workers=2, on_shard=lambda *now: progress.append(now))
    manifests = [(tmp_path / x / NAME).read_text() for x in "ab"]
    assert manifests[0] == manifests[1]
    assert progress == [(n + 1, 3, f"{n:05d}.tar") for n in range(3)]


def broken_shards(folder: Path) -> dict[str, str]:
    """Shards with one of every kind of damage, and a part of the reason by shard:member."""
    whole = picture(1, 64, 64, "JPEG")
    write_samples(
        folder / "images.tar",
        [
            sample(0),
            sample(1, png=whole[: len(whole) // 2]),
            sample(2, png=b"not an image"),
            sample(3, png=b""),
            sample(4, png=None),
            sample(5, png=None, webp=picture(5, kind="WEBP")),
            sample(6, png=None, jpg=whole),
        ],
    )
    write_samples(
        folder / "texts.tar",
        [
            sample(0, txt=b"\xff\xfe"),
            sample(1, json=b"{"),
            sample(2, json=b"[1]"),
            sample(3, cls=b"-4"),
        ],
    )
    write_samples(folder / "twice.tar", [sample(0), sample(1), sample(0)])
    write_tar(folder / "again.tar", [("0.png", picture(0)), ("0.png", picture(1)), ("0.txt", b"a")])
    (folder / "rubbish.tar").write_bytes(b"x" * 2000)
    (folder / "empty.tar").write_bytes(b"")
    write_shards(folder / "cut", 4, 4)
    tar = (folder / "cut/00000.tar").read_bytes()
    (folder / "cut/00000.tar").write_bytes(tar[: len(tar) // 3])
    write_tar(
        folder / "header.tar", [("a.png", picture(0)), ("a.txt", b"a"), ("b.png", picture(1))]
    )
    tar = bytearray((folder / "header.tar").read_bytes())
    second = tar.index(b"b.png")
    tar[second : second + 3] = b"\xff\xff\xff"
    (folder / "header.tar").write_bytes(tar)
    return {
        "images.tar:00001.png": "broken image",
        "images.tar:00002.png": "not a JPEG, PNG or WebP file",
        "images.tar:00003.png": "the file is empty",
        "images.tar:00004": "no image",
        "texts.tar:00000.txt": "not UTF-8",
        "texts.tar:00001.json": "not JSON",
        "texts.tar:00002.json": "not a JSON object",
        "texts.tar:00003.cls": "holds -4",
        "twice.tar:00000.png": "twice",
        "again.tar:0.png": "already",
        "rubbish.tar:": "not an uncompressed tar",
        "empty.tar:": "not an uncompressed tar",
        "cut/00000.tar:": "cut off",
        "header.tar:": "damaged",
    }


def test_check_names_every_broken_member_and_nothing_else(tmp_path: Path) -> None:
    expected = broken_shards(tmp_path)
    found = reasons(check_data(str(tmp_path)))
    cut = [name for name in found if name.startswith("cut/")]
    assert len(cut) == 1  # which member it ends in is the tar's business
    found["cut/00000.tar:"] = found.pop(cut[0])
    assert found.keys() == expected.keys()
    for name, part in expected.items():
        assert part in found[name], name
    assert not list(tmp_path.glob("**/*.idx"))


def described(folder: Path, *rows: tuple[str, dict[str, bytes]]) -> dict[str, str]:
    """What is wrong with a shard, for both commands: indexing and checking agree."""
    write_samples(folder / "a.tar", rows)
    found = reasons(check_data(str(folder)))
    assert found == reasons(index_data(str(folder)))
    assert found == reasons(index_data(str(folder)))  # of the index that is there by now
    return found


@pytest.mark.parametrize(
    ("odd", "member", "reason"),
    [
        (sample(1, txt=b" \n"), "00001.txt", "is an empty text"),
        (sample(1, txt=None, json=b'{"caption": ""}'), "00001.json", "has an empty caption"),
        (sample(1, txt=None, json=b"{}"), "00001", "has no text, as others of the shard have"),
        (sample(1, cls=b""), "00001.cls", "is empty: a class is a number"),
        (sample(1, cls=b"seven"), "00001.cls", "holds 'seven', which nothing reads beside a text"),
        (
            sample(1, txt=None, json=b"{}", cls=b"seven"),
            "00001.cls",
            "holds a name, where others of the shard have class numbers",
        ),
        (sample(1, cls=b"99999"), "", "has the class number 99999, and of 4 classes in all"),
        (sample(2), "00002.png", "twice"),
    ],
)
def test_what_samples_should_have_said(
    tmp_path: Path, odd: tuple[str, dict[str, bytes]], member: str, reason: str
) -> None:
    found = described(tmp_path, sample(2), sample(3), odd, sample(4))
    assert found.keys() == {f"a.tar:{member}"}
    assert reason in found[f"a.tar:{member}"]


@pytest.mark.parametrize("members", [{"png": picture(0)}, {"png": picture(0), "txt": b""}])
def test_shards_without_any_text_are_told(tmp_path: Path, members: dict[str, bytes]) -> None:
    assert len(described(tmp_path, *((f"{i}", members) for i in range(3)))) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"txt": None, "json": None},  # classes by number
        {"txt": None, "json": None, "cls": b"cat"},  # by name
        {"txt": None, "json": b'{"labels": [1]}', "cls": None},
        {"cls": None},
    ],
)
def test_every_way_of_describing_images_is_fine(
    tmp_path: Path, changes: dict[str, bytes | None]
) -> None:
    assert not described(tmp_path, *(sample(i, **changes) for i in range(3)))


def test_class_numbers_without_a_name_are_told(tmp_path: Path) -> None:
    (tmp_path / CLASSES).write_text('["cat", "dog"]')
    found = described(tmp_path, *(sample(i) for i in range(3)))  # classes 0, 1 and 2
    assert found == {"a.tar:00002.cls": f"is 2, but {CLASSES} names the classes 0 to 1"}
    (tmp_path / CLASSES).write_text(json.dumps([str(i) for i in range(100_000)]))
    (tmp_path / "a.tar.idx").unlink()
    assert not described(tmp_path, sample(0), sample(1, cls=b"99999"))


def test_every_truncation_of_a_shard_is_noticed(tmp_path: Path) -> None:
    write_shards(tmp_path, 3, 3)
    shard = tmp_path / "00000.tar"
    whole = shard.read_bytes()
    with tarfile.open(shard) as archive:
        end = archive.getmembers()[-1]
    behind = end.offset_data + -(-end.size // 512) * 512  # the zeros that end a tar begin here
    for length in {0, 1, 511, 512, 700, *range(behind, 0, -512), *range(100, behind, 1471)}:
        shard.write_bytes(whole[:length])
        assert check_data(str(tmp_path)).problems, length
    shard.write_bytes(whole[: behind + 512])
    assert not check_data(str(tmp_path)).problems


def test_check_notices_a_shard_exchanged_behind_its_index(tmp_path: Path) -> None:
    write_shards(tmp_path, 4, 2)
    index_data(str(tmp_path))
    assert not check_data(str(tmp_path)).problems
    write_samples(tmp_path / "00001.tar", [sample(2, txt=b"cow"), sample(3)])
    (problem,) = check_data(str(tmp_path)).problems
    assert problem.shard == "00001.tar"
    assert "changed since it was indexed" in problem.reason


def test_the_same_on_every_storage(any_storage: Storage, s3_settings, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_shards(source, 5, 2)
    for path in sorted(source.glob("*.tar")):
        any_storage.write(path.name, path)
    index_data(str(source))
    found = index_data(any_storage.uri, s3_settings)
    assert found.statistics.images == 5
    assert any_storage.read(NAME) == (source / NAME).read_bytes()
    assert not check_data(any_storage.uri, s3_settings).problems


def test_one_shard_is_indexed_without_touching_the_manifest(tmp_path: Path) -> None:
    write_shards(tmp_path, 4, 2)
    index_data(str(tmp_path))
    before = (tmp_path / NAME).read_bytes()
    assert index_data(f"{tmp_path}/00001.tar", force=True).statistics.images == 2
    assert (tmp_path / NAME).read_bytes() == before


@pytest.mark.parametrize(
    ("files", "reason"),
    [([], "no shards"), (["00000.tar.gz"], "unpack them"), (["manifest.json"], "no shards")],
)
def test_no_shards(tmp_path: Path, files: list[str], reason: str) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=reason) as failure:
        index_data(str(tmp_path))
    assert str(tmp_path) in str(failure.value)


def test_an_index_of_version_1_is_written_anew(tmp_path: Path) -> None:
    write_samples(tmp_path / "0.tar", [sample(0), sample(1, png=None, mp4=b"clip")])
    index_data(str(tmp_path))
    path = tmp_path / "0.tar.idx"
    whole = path.read_bytes()
    old = ShardIndex.from_bytes(whole, "0.tar", "url")
    images = dataclasses.replace(old, records=old.records[:1], keys=old.keys[:1])
    path.write_bytes(as_version_1(images))
    assert index_data(str(tmp_path)).statistics.clips == 1
    assert path.read_bytes() == whole


def test_problems_beyond_the_most_are_counted(tmp_path: Path, monkeypatch) -> None:
    for shard in "ab":
        write_samples(tmp_path / f"{shard}.tar", [sample(i, png=None) for i in range(4)])
    write_samples(tmp_path / "c.tar", [sample(9)])
    monkeypatch.setattr(indexing, "MOST_PROBLEMS", 6)
    found = index_data(str(tmp_path))
    assert (len(found.problems), found.statistics.problems) == (6, 8)
    assert [p.shard for p in found.problems] == ["a.tar"] * 4 + ["b.tar"] * 2


def test_clips_are_counted_apart(tmp_path: Path) -> None:
    write_samples(
        tmp_path / "0.tar",
        [sample(0), sample(1, png=None, mp4=b"clip"), sample(2, png=None, webm=b"clip", txt=b"a")],
    )
    found = index_data(str(tmp_path)).statistics
    assert (found.images, found.clips, found.texts, found.labelled) == (1, 2, 3, 3)
    problems = check_data(str(tmp_path)).problems  # clips are decoded, too
    assert [problem.member for problem in problems] == ["00001.mp4", "00002.webm"]


def test_a_killed_process_is_an_error_that_says_so(tmp_path: Path) -> None:
    write_shards(tmp_path, 4, 2)
    shards = FolderStorage(tmp_path).list()
    with pytest.raises(TransientError, match="fewer --workers"):
        list(indexing._in_order(kill, shards, 2))


def kill(entry: Entry) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def test_ctrl_c_is_told_by_nobody_but_the_program() -> None:
    """One process works, the other waits for work."""
    script = (
        "import time\n"
        "from florence.data.indexing import _in_order\n"
        "try:\n"
        "    for _ in _in_order(time.sleep, [0, 600], 2):\n"
        "        print('ready', flush=True)\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    family = psutil.Process(process.pid)
    before, now = [0.0], list[float]()
    while len(now) < 4 or now != before:  # both, their origin and what tracks them: all rest
        assert process.poll() is None
        time.sleep(0.2)
        before, now = now, [sum(p.cpu_times()[:2]) for p in family.children(recursive=True)]
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (out, err, process.returncode) == ("stopped\n", "", 0)
