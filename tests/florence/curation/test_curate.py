"""Curation from shards to shards: planted copies, every filter, kills, processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from florence.config.storage import S3Settings
from florence.curation.curate import curate
from florence.curation.report import Report
from florence.curation.settings import Curation
from florence.data.labelled import ShardImages
from florence.data.shards import Need, ShardSet
from florence.errors import ConfigurationError, DataError
from florence.evaluation.embed import embed_images, embed_texts
from florence.storage import open_storage
from florence.text.tokenizer import tokenize
from tests.conftest import BUCKET
from tests.florence.curation.pictures import cut, encoded, jpeg, noise, photographs
from tests.florence.data.making import write_samples
from tests.small_model import CARD, network, save

Samples = list[tuple[str, dict[str, bytes]]]
SMALL = {"min_side": 16}


def pair(key: str, image: Image.Image, text: str = "a photo", **meta: Any) -> Any:
    members = {"png": encoded(image), "txt": text.encode()}
    return key, members | ({"json": json.dumps(meta).encode()} if meta else {})


def shards(folder: Path, *contents: Samples) -> Path:
    for number, samples in enumerate(contents):
        write_samples(folder / f"{number:02d}.tar", samples)
    return folder


def run(source: Path, out: Path, processes: int = 1, **changes: Any) -> Report:
    settings = Curation(**{**SMALL, **changes})
    return curate(str(source), str(out), settings, processes=processes)


def kept(out: Path) -> list[str]:
    found = ShardSet.open(str(out), need=Need.IMAGE)
    return [found.key(i) for i in range(len(found))]


def dropped(out: Path) -> dict[str, tuple[str, str]]:
    """Reason and detail by key."""
    return {
        line["key"]: (line["reason"], line["detail"])
        for path in sorted((out / "dropped").glob("*.jsonl"))
        for line in map(json.loads, path.read_text().splitlines())
    }


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.suffix != ".idx"
    }


def planted(folder: Path) -> Path:
    """Photographs and noise, and copies of them in another shard."""
    photos = photographs()
    first = [pair(f"photo{n}", image) for n, image in enumerate(photos)]
    first += [pair(f"noise{n}", noise(n)) for n in range(8)]
    jpg = encoded(photos[3], 50)
    second: Samples = [
        ("copy", dict(first[0][1])),
        pair("cut", cut(photos[1], 0.01)),
        pair("small", photos[2].resize((100, 100))),
        ("jpeg", {"jpg": jpg, "txt": b"x"}),
        pair("both", jpeg(cut(photos[4], 0.01), 70)),
        pair("fresh", noise(100)),
    ]
    return shards(folder, first, second)


def test_planted_copies_crops_and_reencodings_are_found(tmp_path: Path) -> None:
    report = run(planted(tmp_path / "in"), tmp_path / "out")
    assert dropped(tmp_path / "out") == {
        "copy": ("exact duplicate", "like 00.tar row 0"),
        "cut": ("near duplicate", "like 00.tar row 1"),
        "small": ("near duplicate", "like 00.tar row 2"),
        "jpeg": ("near duplicate", "like 00.tar row 3"),
        "both": ("near duplicate", "like 00.tar row 4"),
    }
    assert (report.samples, report.kept) == (22, 17)
    assert {k: n for k, n in report.dropped.items() if n} == {
        "exact duplicate": 1,
        "near duplicate": 4,
    }
    assert len(report.examples["near duplicate"]) == 3
    assert report.examples["exact duplicate"] == [
        {"shard": "01.tar", "key": "copy", "row": 0, "detail": "like 00.tar row 0"}
    ]
    assert len(kept(tmp_path / "out")) == 17
    assert not (tmp_path / "out" / "measured").exists()


def test_copies_of_evaluation_images_are_removed_whatever_holds_them(tmp_path: Path) -> None:
    source = planted(tmp_path / "in")
    photos = photographs()
    shards(tmp_path / "shards", [pair("x", photos[0].resize((150, 150)), text="")])
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "1.jpg").write_bytes(encoded(cut(photos[1], 0.01), 80))
    (tmp_path / "folder" / "bad.jpg").write_bytes(b"?")
    (tmp_path / "2.png").write_bytes(encoded(photos[2]))
    (tmp_path / "test.csv").write_text("image,caption\n2.png,a test\n")
    against = tuple(str(tmp_path / name) for name in ("shards", "folder", "test.csv"))
    settings = Curation(**SMALL, against=against)
    report = curate(str(source), str(tmp_path / "out"), settings, home=tmp_path / "home")
    gone = {k: v for k, v in dropped(tmp_path / "out").items() if v[0] == "in an evaluation set"}
    assert set(gone) == {"photo0", "copy", "photo1", "cut", "photo2", "small"}
    assert gone["photo0"][1] == f"like {tmp_path}/shards/00.tar row 0"
    assert gone["cut"][1] == f"like {tmp_path}/folder/deep/1.jpg"
    assert report.unreadable_evaluation_images == 1


def test_each_filter_drops_what_it_names(tmp_path: Path) -> None:
    image = noise(0, 100, 80)
    source = shards(
        tmp_path / "in",
        [
            ("broken", {"png": encoded(image)[:200], "txt": b"two words"}),
            ("none", {"txt": b"two words"}),
            pair("narrow", noise(1, 100, 39), "two words"),
            pair("long", noise(2, 161, 40), "two words"),
            pair("edge", noise(3, 160, 40), "two words"),
            pair("terse", noise(4, 100, 80), "word"),
            pair("wordy", noise(5, 100, 80), "one two three four five"),
            ("caption", {"png": encoded(noise(6, 90, 80)), "json": b'{"caption": "two words"}'}),
            ("class", {"png": encoded(noise(7, 90, 80)), "cls": b"blue tit"}),
            ("number", {"png": encoded(noise(8, 90, 80)), "cls": b"7"}),
        ],
        [pair("good", image, "one two three four"), pair("bad", noise(9, 8, 8), "two words")],
        [pair("all-gone", noise(10, 8, 8), "two words")],
    )
    report = run(source, tmp_path / "out", min_side=40, max_aspect=4, min_words=2, max_words=4)
    assert dropped(tmp_path / "out") == {
        "broken": ("broken image", ""),
        "none": ("broken image", ""),
        "narrow": ("too small", "100x39 pixels"),
        "long": ("too long or wide", "161x40 pixels"),
        "terse": ("words out of range", "1 words"),
        "wordy": ("words out of range", "5 words"),
        "number": ("words out of range", "0 words"),
        "bad": ("too small", "8x8 pixels"),
        "all-gone": ("too small", "8x8 pixels"),
    }
    assert report.kept == 4
    assert kept(tmp_path / "out") == ["00/edge", "00/caption", "00/class", "01/good"]
    assert not (tmp_path / "out" / "02.tar").exists()


def test_a_query_keeps_so_many_samples_wherever_they_lie(tmp_path: Path) -> None:
    def samples(start: int) -> Samples:
        return [
            pair(f"{n}", noise(n), query="Cat" if n % 2 else " cat ")
            for n in range(start, start + 6)
        ]

    extra = [pair(f"free{n}", noise(50 + n)) for n in range(5)]
    one = shards(tmp_path / "one", samples(0), samples(6) + extra)
    other = shards(tmp_path / "other", samples(6) + extra, samples(0))
    for source in (one, other):
        report = run(source, tmp_path / f"out-{source.name}", max_per_query=4)
        assert report.dropped["beyond the query's cap"] == 8
    names = [{key[3:] for key in kept(tmp_path / f"out-{n}")} for n in ("one", "other")]
    assert names[0] == names[1]  # chosen by their images, not by where they lie
    assert len(names[0]) == 9


def test_members_are_copied_and_facts_are_added_to_the_json(tmp_path: Path) -> None:
    _, members = pair("a", noise(0), "text", query="q", width=-1)
    source = shards(tmp_path / "in", [("a", members | {"seg.png": b"mask"}), pair("b", noise(1))])
    (source / "classes.json").write_text('["x"]')
    run(source, tmp_path / "with")
    found = ShardSet.open(str(tmp_path / "with"))
    first = found.read(0)
    assert first.meta == {"query": "q", "width": 64, "height": 48, "phash": first.meta["phash"]}
    assert len(first.meta["phash"]) == 16
    assert found.read(1).meta["height"] == 48
    assert b"mask" in (tmp_path / "with" / "00.tar").read_bytes()
    assert (tmp_path / "with" / "classes.json").read_text() == '["x"]'
    run(source, tmp_path / "without", annotate=False)
    found = ShardSet.open(str(tmp_path / "without"))
    assert found.read(0).meta_bytes == members["json"]
    assert found.read(1).meta == {}


def test_relevance_is_the_models_cosine_in_any_number_of_processes(tmp_path: Path) -> None:
    model = network()
    save(tmp_path / "model")
    texts = [f"a thing of {n} parts" for n in range(9)]
    samples = [pair(f"{n}", noise(n), text) for n, text in enumerate(texts)]
    source = shards(tmp_path / "in", samples[:4], samples[4:], [pair("mute", noise(20), "")])
    images = ShardImages(ShardSet.open(str(source)))
    from florence.data.labelled import image_batches

    batches = image_batches(images, resolution=32, mean=CARD.mean, std=CARD.std, batch_size=4)
    cosines = (embed_images(model, batches) * embed_texts(model, tokenize, texts)).sum(1)
    middle = float(cosines.sort().values[4] + cosines.sort().values[5]) / 2
    changes = {
        "relevance_model": str(tmp_path / "model"),
        "min_relevance": middle,
        "min_words": 0,
        "near_duplicates": False,
    }
    for processes in (1, 2):
        run(source, tmp_path / f"out{processes}", processes, **changes)
    assert tree(tmp_path / "out1") == tree(tmp_path / "out2")
    gone = {key for key, (reason, _) in dropped(tmp_path / "out1").items()}
    assert gone == {str(n) for n in range(9) if cosines[n] < middle}
    found = ShardSet.open(str(tmp_path / "out1"), need=Need.IMAGE)
    scored = {s.key[3:]: s.meta.get("relevance") for s in map(found.read, range(len(found)))}
    assert scored.pop("mute") is None
    for key, score in scored.items():
        assert score == pytest.approx(float(cosines[int(key)]), abs=1e-3)


def test_the_number_of_processes_changes_nothing(tmp_path: Path) -> None:
    source = planted(tmp_path / "in")
    for processes in (1, 2, 3):
        run(source, tmp_path / str(processes), processes, max_per_query=3)
    assert tree(tmp_path / "1") == tree(tmp_path / "2") == tree(tmp_path / "3")


CHILD = """
import sys
from florence.curation.curate import curate
from florence.curation.settings import Curation
def stop(what, done, total, shard):
    if what == sys.argv[3] and done == 2:
        print("there", flush=True)
        sys.stdin.read()
settings = Curation(min_side=16, against=(sys.argv[4],))
curate(sys.argv[1], sys.argv[2], settings, on_shard=stop)
"""


@pytest.mark.parametrize("when", ["measured", "hashed", "written"])
def test_a_killed_run_goes_on_and_ends_as_one_that_was_not(tmp_path: Path, when: str) -> None:
    source, out = planted(tmp_path / "in"), tmp_path / "out"
    write_samples(source / "02.tar", [pair("last", noise(200)), pair("again", noise(3))])
    against = shards(tmp_path / "test", *[[pair("t", noise(n))] for n in (5, 6, 300)])
    command = [sys.executable, "-c", CHILD, str(source), str(out), when, str(against)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"there\n"
        child.send_signal(signal.SIGKILL)
    with pytest.raises(DataError, match="unfinished"):
        ShardSet.open(str(out))
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.suffix in (".tar", ".npy")}
    told: list[tuple[str, int]] = []
    settings = Curation(min_side=16, against=(str(against),))
    curate(
        str(source),
        str(out),
        settings,
        on_shard=lambda what, n, total, shard: told.append((what, n)),
    )
    first = {"measured": ("measured", 3), "hashed": ("hashed", 1), "written": ("hashed", 1)}
    assert told[0] == first[when]
    assert [n for what, n in told if what == "written"] == ([3] if when == "written" else [1, 2, 3])
    for path, stamp in stamps.items():
        if path.suffix == ".tar":
            assert path.stat().st_mtime_ns == stamp
    curate(str(source), str(tmp_path / "whole"), settings)
    assert tree(out) == tree(tmp_path / "whole")


def test_a_second_run_changes_nothing_and_other_settings_are_refused(tmp_path: Path) -> None:
    source, out = planted(tmp_path / "in"), tmp_path / "out"
    first = run(source, out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.tar")}
    assert run(source, out) == first
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.tar")} == before
    with pytest.raises(ConfigurationError, match="already holds something else"):
        run(source, out, distance=3)
    with pytest.raises(ConfigurationError, match="is the data itself"):
        run(source, source)


def test_nothing_left_is_an_error_that_names_the_report(tmp_path: Path) -> None:
    source = planted(tmp_path / "in")
    with pytest.raises(DataError, match=r"no sample passes.*curation\.json"):
        run(source, tmp_path / "out", min_side=5000)
    assert json.loads((tmp_path / "out" / "curation.json").read_text())["kept"] == 0


def test_s3_is_source_and_target(tmp_path: Path, s3_settings: S3Settings) -> None:
    local = planted(tmp_path / "in")
    root = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    storage = open_storage(root, s3_settings)
    for path in local.glob("*.tar"):
        storage.write(f"in/{path.name}", path)
    report = curate(f"{root}/in", f"{root}/out", Curation(**SMALL), s3_settings, processes=2)
    run(local, tmp_path / "out")
    assert report.kept == 17
    for name in ("00.tar", "01.tar", "dropped/01.jsonl"):
        assert storage.read(f"out/{name}") == (tmp_path / "out" / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relevance_model": "m"}, "relevanceModel and minRelevance"),
        ({"min_relevance": 0.2}, "relevanceModel and minRelevance"),
        ({"min_words": 5, "max_words": 4}, "maxWords is smaller"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Curation(**changes)
