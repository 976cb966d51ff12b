"""Archives that nobody should write: each oddity is a named problem, none is a crash."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from florence.data.archive import printable
from florence.data.indexing import check_data, index_data
from florence.data.shards import Need, ShardSet
from florence.errors import DataError
from tests.florence.data.making import picture, sample, write_samples, write_tar

GOOD = [("good.png", picture(0)), ("good.txt", b"a good one")]


def write_odd(path: Path, members: list[tuple[str, bytes]], encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding=encoding) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def problems_of(folder: Path) -> dict[str, str]:
    """The problems by member; every way into the data survives them and agrees on the rest."""
    unindexed = ShardSet.open(str(folder))
    found = index_data(str(folder))
    indexed = ShardSet.open(str(folder))
    assert indexed.fingerprint == unindexed.fingerprint
    assert [indexed.read(i) for i in range(len(indexed))] == [
        unindexed.read(i) for i in range(len(unindexed))
    ]
    assert set(found.problems) <= set(check_data(str(folder)).problems)
    json.dumps([str(p).encode().decode() for p in found.problems])
    assert all(p.member.isprintable() and "\n" not in p.reason for p in found.problems)
    return {p.member: p.reason for p in found.problems}


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    odd = [("caf\xe9.png", picture(1)), ("caf\xe9.txt", b"coffee")]
    write_odd(tmp_path / "a.tar", [*odd, *GOOD], encoding="latin-1")
    problems = problems_of(tmp_path)
    assert problems.keys() == {"caf\\xe9.png", "caf\\xe9.txt"}
    assert all("not UTF-8" in reason for reason in problems.values())
    assert ShardSet.open(str(tmp_path)).read(0).text == "a good one"


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\x1b[31mb", "a\u2028b", "a\x85b"])
def test_names_that_would_break_a_line(tmp_path: Path, name: str) -> None:
    write_odd(tmp_path / "a.tar", [(f"{name}.png", picture(1)), (f"{name}.txt", b"x"), *GOOD])
    problems = problems_of(tmp_path)
    assert problems.keys() == {printable(f"{name}.png"), printable(f"{name}.txt")}
    assert all("control character" in reason for reason in problems.values())
    assert len(ShardSet.open(str(tmp_path))) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"9" * 5000, "holds 5000 digits"),
        (b"-" + b"9" * 5000, "holds 5001 digits"),
        (b"2147483648", "holds 2147483648"),
        (b"x" * (1 << 20), "is 1048576 bytes long"),
        (b"caf\xe9", "not UTF-8"),
    ],
)
def test_classes_that_are_none(tmp_path: Path, content: bytes, reason: str) -> None:
    write_samples(tmp_path / "a.tar", [sample(0, cls=content), sample(1, cls=b"2147483647")])
    problems = problems_of(tmp_path)
    assert list(problems) == ["00000.cls", ""]  # the class without a name beyond all others, too
    assert reason in problems["00000.cls"]
    shards = ShardSet.open(str(tmp_path), need=Need.CLASS)
    assert shards.class_indices().tolist() == [2147483647]


def test_texts_that_are_none(tmp_path: Path) -> None:
    huge = b'{"caption": "' + b"x" * (16 << 20) + b'"}'
    rows = [
        sample(0, txt=b"x" * (16 << 20) + b"y"),
        sample(1, txt=None, json=huge),
        sample(2, txt=None, json=b'{"caption": "a \\ud800 b", "query": "\\udc00"}'),
        sample(3, json=b'{"a": ' + b"9" * 5000 + b"}"),
        sample(4, json=b"[" * 100_000),
    ]
    write_samples(tmp_path / "a.tar", rows)
    assert problems_of(tmp_path).keys() == {"00000.txt", "00001.json", "00003.json", "00004.json"}
    assert len(ShardSet.open(str(tmp_path))) == 3


def test_a_negative_size_ends_the_shard(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [*GOOD, ("bad.png", picture(1)), ("late.png", picture(2))])
    tar = bytearray((tmp_path / "a.tar").read_bytes())
    header = tar.index(b"bad.png")
    tar[header + 124 : header + 136] = b"\xff" * 10 + b"\xfc\x00"  # -1024, in base 256
    tar[header + 148 : header + 156] = b" " * 8
    checksum = sum(tar[header : header + 512])
    tar[header + 148 : header + 156] = f"{checksum:06o}\0 ".encode()
    (tmp_path / "a.tar").write_bytes(tar)
    assert problems_of(tmp_path) == {"bad.png": "is damaged: its size is -1024"}


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_is_a_crash(tmp_path_factory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    write_samples(folder / "a.tar", [sample(i) for i in range(3)])
    tar = bytearray((folder / "a.tar").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(tar) - 1))
        tar[place] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):  # so that a header's damage is not caught by its checksum
            header = place // 512 * 512
            tar[header + 148 : header + 156] = b" " * 8
            checksum = sum(tar[header : header + 512])
            tar[header + 148 : header + 156] = f"{checksum:06o}\0 ".encode()
    (folder / "a.tar").write_bytes(tar)
    found = check_data(str(folder))
    try:
        shards = ShardSet.open(str(folder), need=Need.IMAGE)
    except DataError:
        assert found.statistics.images == 0
        return
    assert len(shards) == found.statistics.images
    for i in range(len(shards)):
        shards.read(i)


@given(st.text(alphabet=st.characters(codec=None), max_size=20))
def test_printable_is(name: str) -> None:
    assert printable(name).isprintable()
    if name.isprintable():
        assert printable(name) == name
