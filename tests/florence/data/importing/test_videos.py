"""Videos of the field's formats as shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from florence.data.captions import captions_of
from florence.data.importing.importer import Imported, import_data
from florence.data.importing.registry import import_format
from florence.data.shards import Need, Sample, ShardSet
from florence.data.video.decoding import open_clip
from florence.errors import DataError, FlorenceError
from tests.florence.data.making import write_samples
from tests.florence.data.video.clips import counting, shown


def videos(folder: Path, *names: str) -> Path:
    """Files of these names, each a video of its own length from 12 frames on, at 10 a second."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(counting(12 + number))
    return folder


def run(kind: str, source: Path | list[str], out: Path, **fields: Any) -> Imported:
    chosen = import_format(kind)
    sources = source if isinstance(source, list) else [str(source)]
    settings = chosen.settings.model_validate({"maxBrokenFraction": 1, **fields})
    return import_data(chosen, sources, str(out), settings)


def samples(out: Path) -> tuple[list[Sample], tuple[str, ...] | None]:
    shards = ShardSet.open(str(out), need=Need.VIDEO)
    return [shards.read(i) for i in range(len(shards))], shards.class_names


def lengths(found: list[Sample]) -> list[int]:
    result = []
    for sample in found:
        with open_clip(sample.media_bytes) as clip:
            result.append(len(clip.times))
    return result


def test_kinetics_by_table_and_by_folders(tmp_path: Path) -> None:
    folder = videos(
        tmp_path / "v", "ski/aa_000001_000011.mp4", "run/bb_000002_000012.mp4", "run/cc.webm"
    )
    (tmp_path / "k.csv").write_text(
        "label,youtube_id,time_start,time_end,split\nski,aa,1,11,train\nrun,bb,2,12,train\n"
        "run,gone,0,10,train\n"
    )
    done = run("kinetics", tmp_path / "k.csv", tmp_path / "table", videos=str(folder))
    assert (done.samples, done.broken) == (2, 1)
    assert "there is no video 'run/gone_000000_000010'" in done.broken_rows[0]
    found, names = samples(tmp_path / "table")
    assert names == ("run", "ski")
    assert [(s.class_index, s.text) for s in found] == [(1, "ski"), (0, "run")]
    assert lengths(found) == [12, 13]
    assert run("kinetics", folder, tmp_path / "folders").samples == 3
    assert [s.class_index for s in samples(tmp_path / "folders")[0]] == [0, 0, 1]
    (tmp_path / "bad.csv").write_text("label,id\nski,aa\n")
    with pytest.raises(DataError, match="has no column time_end, time_start, youtube_id"):
        run("kinetics", tmp_path / "bad.csv", tmp_path / "bad")


def test_lists_of_classes(tmp_path: Path) -> None:
    folder = videos(tmp_path / "v", "a/one.mp4", "b/two two.avi.mp4", "b/three.mp4")
    (tmp_path / "list.txt").write_text("a/one.mp4 1\nb/two two.avi.mp4 0\n")
    (tmp_path / "names.txt").write_text("zero\none\n")
    run(
        "mmaction",
        tmp_path / "list.txt",
        tmp_path / "mm",
        videos=str(folder),
        classes=str(tmp_path / "names.txt"),
    )
    found, names = samples(tmp_path / "mm")
    assert [(s.class_index, s.text) for s in found] == [(1, "one"), (0, "zero")]
    assert names == ("zero", "one")
    (tmp_path / "trainlist01.txt").write_text("a/one.mp4 1\nb/three.mp4 2\n")
    run("ucf101", tmp_path / "trainlist01.txt", tmp_path / "ucf", videos=str(folder))
    assert [s.text for s in samples(tmp_path / "ucf")[0]] == ["a", "b"]
    (tmp_path / "b_test_split1.txt").write_text("three.mp4 1\none.mp4 2\ntwo 0\n")
    source = str(tmp_path / "b_test_split1.txt")
    run("hmdb51", [source], tmp_path / "train", videos=str(folder))
    run("hmdb51", [f"{source}#2"], tmp_path / "test", videos=str(folder))
    assert lengths(samples(tmp_path / "train")[0]) == [14]
    assert lengths(samples(tmp_path / "test")[0]) == [12]
    entries = [{"id": "three", "label": "x", "template": "Pushing [something] left"}]
    (tmp_path / "ss.json").write_text(json.dumps(entries))
    run("ssv2", tmp_path / "ss.json", tmp_path / "ss", videos=str(folder))
    assert samples(tmp_path / "ss")[0][0].text == "Pushing something left"


def test_labels_outside_the_list_of_classes_are_told(tmp_path: Path) -> None:
    folder = videos(tmp_path / "v", "a/one.mp4", "b/two.mp4")
    (tmp_path / "list.txt").write_text("a/one.mp4 1\nb/two.mp4 2\n")
    (tmp_path / "names.txt").write_text("zero\none\n")
    given = {"videos": str(folder), "classes": str(tmp_path / "names.txt")}
    done = run("mmaction", tmp_path / "list.txt", tmp_path / "mm", **given)
    assert (done.samples, done.broken) == (1, 1)
    assert done.broken_rows[0].endswith("'2' is not in the list of classes: add or correct it")
    (tmp_path / "names.txt").write_text("a\nc\n")
    done = run("kinetics", folder, tmp_path / "k", classes=given["classes"])
    assert (done.samples, done.broken) == (1, 1)
    assert "'b' is not in the list of classes" in done.broken_rows[0]


def test_msrvtt_and_its_split_1ka(tmp_path: Path) -> None:
    folder = videos(tmp_path / "v", "video0.mp4", "video1.mp4", "video2.mp4")
    document = {
        "videos": [{"video_id": f"video{n}", "split": "train" if n else "test"} for n in range(3)],
        "sentences": [
            {"video_id": f"video{n % 3}", "caption": f"caption {n}", "sen_id": n} for n in range(6)
        ],
    }
    (tmp_path / "data.json").write_text(json.dumps(document))
    run("msrvtt", tmp_path / "data.json", tmp_path / "all", videos=str(folder), split="train")
    found, _ = samples(tmp_path / "all")
    assert [captions_of(s) for s in found] == [
        ("caption 1", "caption 4"),
        ("caption 2", "caption 5"),
    ]
    (tmp_path / "test.csv").write_text(
        'key,vid_key,video_id,sentence\nret0,msr0,video2,"a man, running"\n'
    )
    run("msrvtt", tmp_path / "test.csv", tmp_path / "1ka", videos=str(folder))
    found, _ = samples(tmp_path / "1ka")
    assert [s.text for s in found] == ["a man, running"]
    assert lengths(found) == [14]
    with pytest.raises(DataError, match="has no video of split 'none'"):
        run("msrvtt", tmp_path / "data.json", tmp_path / "x", split="none")


def test_parts_are_cut_out_or_joined(tmp_path: Path) -> None:
    folder = videos(tmp_path / "v", "v_a.mp4", "dd.mp4")
    (tmp_path / "act.json").write_text(
        json.dumps(
            {
                "v_a": {
                    "duration": 1.2,
                    "timestamps": [[0.2, 0.6], [0.9, 0.3], [-1, 0.5]],
                    "sentences": ["First.", " Second.", "Third."],
                }
            }
        )
    )
    run("activitynet", tmp_path / "act.json", tmp_path / "whole", videos=str(folder))
    assert samples(tmp_path / "whole")[0][0].text == "First. Second. Third."
    done = run(
        "activitynet", tmp_path / "act.json", tmp_path / "parts", videos=str(folder), whole=False
    )
    assert (done.samples, done.broken) == (1, 2)
    assert all("the start is to be before the end" in row for row in done.broken_rows)
    (sample,) = samples(tmp_path / "parts")[0]
    with open_clip(sample.media_bytes) as clip:
        assert [shown(frame) for frame in clip.frames(range(4))] == [2, 3, 4, 5]
        assert len(clip.times) == 4
    entries = [{"video": "dd.mov", "description": d, "times": [[0, 0]]} for d in ("a", "b")]
    (tmp_path / "did.json").write_text(json.dumps(entries))
    videos(tmp_path / "v", "v_a.mp4", "dd.mov")
    run("didemo", tmp_path / "did.json", tmp_path / "did", videos=str(folder))
    assert [s.text for s in samples(tmp_path / "did")[0]] == ["a b"]


def test_webvid_msvd_and_shards(tmp_path: Path) -> None:
    folder = videos(tmp_path / "v", "001/77.mp4", "abc_1_5.mp4")
    (tmp_path / "w.csv").write_text("videoid,name,page_dir\n77,a red car,001\n")
    run("webvid", tmp_path / "w.csv", tmp_path / "w", videos=str(folder))
    assert [s.text for s in samples(tmp_path / "w")[0]] == ["a red car"]
    (tmp_path / "m.txt").write_text("abc_1_5 a cat\nabc_1_5 the cat\n")
    run("msvd", tmp_path / "m.txt", tmp_path / "m", videos=str(folder))
    assert captions_of(samples(tmp_path / "m")[0][0]) == ("a cat", "the cat")
    run("webdataset", tmp_path / "m", tmp_path / "again")
    assert captions_of(samples(tmp_path / "again")[0][0]) == ("a cat", "the cat")


def test_videos_are_written_anew_and_broken_ones_told(tmp_path: Path) -> None:
    folder = videos(tmp_path / "v", "a/one.mp4")
    (folder / "a/bad.mp4").write_bytes(counting()[:700])
    done = run("kinetics", folder, tmp_path / "out", shortSide=24, fps=5)
    assert (done.samples, done.broken) == (1, 1)
    assert "bad.mp4: broken video" in done.broken_rows[0]
    (sample,) = samples(tmp_path / "out")[0]
    assert sample.media_type == "mp4"
    assert (sample.meta["width"], sample.meta["height"], sample.meta["frames"]) == (32, 24, 6)


@pytest.mark.parametrize(
    ("kind", "name", "content"),
    [
        ("msrvtt", "a.json", "[]"),
        ("ssv2", "a.json", "{}"),
        ("didemo", "a.json", '[{"video": "x"}]'),
        ("activitynet", "a.json", "[1]"),
        ("webvid", "a.csv", "id,title\n1,x\n"),
        ("mmaction", "a.txt", "only\n"),
        ("hmdb51", "other.txt", "a 1\n"),
    ],
)
def test_says_in_a_line_what_is_no_such_file(
    tmp_path: Path, kind: str, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(FlorenceError) as error:
        run(kind, tmp_path / name, tmp_path / "out")
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_shards_without_media_are_told(tmp_path: Path) -> None:
    write_samples(tmp_path / "in" / "a.tar", [("x", {"txt": b"no media"})])
    with pytest.raises(DataError, match="has no image and no video"):
        run("webdataset", tmp_path / "in", tmp_path / "out", maxBrokenFraction=0)
