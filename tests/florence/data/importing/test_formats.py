"""Every format: what a source holds is what the shards hold, seen through the training reader."""

from __future__ import annotations

import csv
import json
import uuid
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from florence.config.storage import S3Settings
from florence.data.images import decode
from florence.data.importing.importer import Imported, import_data
from florence.data.importing.once import detect_format
from florence.data.importing.registry import FORMATS, import_format
from florence.data.labelled import CaptionedImages, LabelledImages
from florence.data.shards import Need, Sample, ShardSet
from florence.errors import ConfigurationError, DataError
from florence.storage import open_storage
from tests.conftest import BUCKET
from tests.florence.data.making import picture, sample, write_samples, write_shards


def imported(kind: str, sources: list[Path], out: Path, **settings: Any) -> Imported:
    known = import_format(kind)
    return import_data(known, [str(s) for s in sources], str(out), known.settings(**settings))


def read_all(out: Path, need: Need = Need.IMAGE) -> list[Sample]:
    shards = ShardSet.open(str(out), need=need)
    return [shards.read(i) for i in range(len(shards))]


def write(path: Path, data: bytes) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data


def write_table(path: Path, columns: list[str], rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        csv.writer(file, delimiter=delimiter).writerows([columns, *rows])
    return path


def test_class_folders_are_numbered_by_name_over_all_sources(tmp_path: Path) -> None:
    images = {
        f"{part}/{name}/{number}.{kind.lower()}": write(
            tmp_path / part / name / f"{number}.{kind.lower()}", picture(number, kind=kind)
        )
        for part, name, number, kind in [
            ("a", "dog", 1, "JPEG"),
            ("a", "cat", 2, "PNG"),
            ("a", "cat/deep", 3, "WEBP"),
            ("b", "bird", 4, "PNG"),
        ]
    }
    write(tmp_path / "a" / "cat" / "notes.txt", b"no image")
    write(tmp_path / "a" / "cat" / ".hidden.png", b"")
    done = imported("class-folders", [tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert (done.rows, done.samples, done.broken, done.classes) == (4, 4, 0, 3)
    assert json.loads((tmp_path / "out/classes.json").read_text()) == ["bird", "cat", "dog"]
    found = read_all(tmp_path / "out", Need.CLASS)
    assert [(s.class_index, s.text, s.meta["source"]) for s in found] == [
        (1, "cat", "cat/2.png"),
        (1, "cat", "cat/deep/3.webp"),
        (2, "dog", "dog/1.jpeg"),
        (0, "bird", "bird/4.png"),
    ]
    assert sorted(s.image_bytes for s in found) == sorted(images.values())
    assert (found[0].meta["width"], found[0].meta["height"]) == (24, 20)
    labels = LabelledImages.open(str(tmp_path / "out")).labels.tolist()
    assert labels == [1, 1, 2, 0]


def test_class_folders_take_names_from_a_list(tmp_path: Path) -> None:
    for folder in ("n01", "n02"):
        write(tmp_path / "in" / folder / "0.png", picture(1))
    (tmp_path / "names.json").write_text('{"n02": "gold fish", "n01": "tench"}')
    imported(
        "class-folders",
        [tmp_path / "in"],
        tmp_path / "out",
        classes=str(tmp_path / "names.json"),
    )
    found = {s.text: s.class_index for s in read_all(tmp_path / "out")}
    assert found == {"gold fish": 0, "tench": 1}
    assert json.loads((tmp_path / "out/classes.json").read_text()) == ["gold fish", "tench"]


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("tench\nn02", "only the file has 'tench', only the data has 'n01'"),
        ("n01", "only the file has nothing, only the data has 'n02'"),
        ("n01\nn02\nn03", "names 3 folders and there are 2; only the file has 'n03'"),
    ],
)
def test_folders_are_never_named_by_their_place(tmp_path: Path, listed: str, message: str) -> None:
    for folder in ("n01", "n02"):
        write(tmp_path / "in" / folder / "0.png", picture(1))
    (tmp_path / "names.txt").write_text(listed)
    given = {"classes": str(tmp_path / "names.txt")}
    with pytest.raises(ConfigurationError, match=message):
        imported("class-folders", [tmp_path / "in"], tmp_path / "out", **given)


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_tables_hold_texts_labels_and_queries(tmp_path: Path, kind: str) -> None:
    data = [write(tmp_path / "photos" / f"{n}.png", picture(n)) for n in range(4)]
    texts = ['a "big" cat', "größe\u2003x", "two, three", "l'été"]
    labels = ["cat", "dog", "cat", "ant"]
    rows = [[f"./{n}.png", texts[n], labels[n], f"q{n}"] for n in range(3)]
    rows.append([str(tmp_path / "photos" / "3.png"), texts[3], labels[3], "q3"])
    columns = ["img", "title", "kind", "query"]
    path = tmp_path / f"pairs.{kind}"
    if kind == "parquet":
        table = pyarrow.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True)))
        parquet.write_table(table, path)
    elif kind == "csv":
        write_table(path, columns, rows)
    else:
        lines = ["\t".join(row) for row in [columns, *rows]]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    imported(
        kind,
        [path],
        tmp_path / "out",
        images=str(tmp_path / "photos"),
        image_column="img",
        text_column="title",
        label_column="kind",
    )
    found = read_all(tmp_path / "out")
    assert [s.text for s in found] == texts
    assert [s.image_bytes for s in found] == data
    assert [s.meta["query"] for s in found] == ["q0", "q1", "q2", "q3"]
    assert [s.class_index for s in found] == [1, 2, 1, 0]
    assert json.loads((tmp_path / "out/classes.json").read_text()) == ["ant", "cat", "dog"]


def test_a_table_without_texts_uses_class_names_and_numbers_stay_numbers(tmp_path: Path) -> None:
    write(tmp_path / "0.png", picture(0))
    write_table(tmp_path / "n.csv", ["image", "label"], [["0.png", "cat"], ["0.png", "ant"]])
    imported("csv", [tmp_path / "n.csv"], tmp_path / "named")
    assert [(s.text, s.class_index) for s in read_all(tmp_path / "named")] == [
        ("cat", 1),
        ("ant", 0),
    ]
    write_table(tmp_path / "i.csv", ["image", "label"], [["0.png", "7"], ["0.png", "0"]])
    imported("csv", [tmp_path / "i.csv"], tmp_path / "numbers")
    assert [(s.text, s.class_index) for s in read_all(tmp_path / "numbers")] == [("", 7), ("", 0)]
    assert not (tmp_path / "numbers/classes.json").exists()
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    write_table(tmp_path / "m.csv", ["image", "label"], [["0.png", "1"], ["0.png", "ant"]])
    imported("csv", [tmp_path / "m.csv"], tmp_path / "given", classes=str(tmp_path / "names.txt"))
    assert [(s.text, s.class_index) for s in read_all(tmp_path / "given")] == [
        ("bee", 1),
        ("ant", 0),
    ]


def test_parquet_may_hold_the_images_themselves(tmp_path: Path) -> None:
    data = [picture(n) for n in range(600)]  # more than one batch of rows
    plain = pyarrow.table({"image": data, "caption": [f"text {n}" for n in range(600)]})
    parquet.write_table(plain, tmp_path / "plain.parquet", row_group_size=100)
    wrapped = [{"bytes": d, "path": f"{n}.png"} for n, d in enumerate(data)]
    struct = pyarrow.table({"image": wrapped, "text": [f"text {n}" for n in range(600)]})
    parquet.write_table(struct, tmp_path / "struct.parquet")
    for name in ("plain", "struct"):
        imported("parquet", [tmp_path / f"{name}.parquet"], tmp_path / name)
        found = read_all(tmp_path / name)
        assert [s.image_bytes for s in found] == data
        assert [s.text for s in found] == [f"text {n}" for n in range(600)]
    assert found[3].meta["source"] == "3.png"


def karpathy(folder: Path) -> Path:
    images = []
    for number, split in enumerate(["train", "restval", "val", "test", "test"]):
        write(folder / "coco" / "val2014" / f"{number}.png", picture(number))
        sentences = [{"raw": f" image {number} caption {c} ", "sentid": c} for c in range(5)]
        images.append(
            {
                "filename": f"{number}.png",
                "filepath": "val2014",
                "split": split,
                "imgid": number,
                "cocoid": 100 + number,
                "sentences": sentences,
            }
        )
    path = folder / "dataset_coco.json"
    path.write_text(json.dumps({"images": images, "dataset": "coco"}))
    return path


@pytest.mark.parametrize(
    ("split", "ids"), [("train", [0, 1]), ("val", [2]), ("test", [3, 4]), ("all", [0, 1, 2, 3, 4])]
)
def test_karpathy_serves_training_and_retrieval(tmp_path: Path, split: str, ids: list[int]) -> None:
    path = karpathy(tmp_path)
    out = tmp_path / "out"
    imported("karpathy", [path], out, images=str(tmp_path / "coco"), split=split)
    found = read_all(out, Need.TEXT)
    assert [s.meta["imgid"] for s in found] == ids
    assert [s.text for s in found] == [f"image {n} caption 0" for n in ids]
    assert found[0].meta["filename"] == f"{ids[0]}.png"
    captioned = CaptionedImages.from_shards(str(out))
    assert captioned.captions == tuple(
        tuple(f"image {n} caption {c}" for c in range(5)) for n in ids
    )
    assert captioned.images.image(0).tobytes() == decode(picture(ids[0])).tobytes()


def test_coco_captions_are_grouped_by_image_in_the_order_of_their_ids(tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / "train" / f"{number:012d}.jpg", picture(number, kind="JPEG"))
    document = {
        "images": [{"id": 50 + n, "file_name": f"{n:012d}.jpg"} for n in range(2)],
        "annotations": [
            {"id": 3, "image_id": 51, "caption": "later\n"},
            {"id": 2, "image_id": 50, "caption": "only"},
            {"id": 1, "image_id": 51, "caption": "first"},
        ],
    }
    path = tmp_path / "captions_train2017.json"
    path.write_text(json.dumps(document))
    imported("coco-captions", [path], tmp_path / "out", images=str(tmp_path / "train"))
    captions = CaptionedImages.from_shards(str(tmp_path / "out")).captions
    assert captions == (("only",), ("first", "later"))
    assert [s.text for s in read_all(tmp_path / "out")] == ["only", "first"]


def test_regions_of_visual_genome_are_captions_each_once(tmp_path: Path) -> None:
    write(tmp_path / "VG_100K_2" / "7.jpg", picture(7, kind="JPEG"))
    write(tmp_path / "9.jpg", picture(9, kind="JPEG"))
    document = [
        {
            "id": 7,
            "regions": [
                {"image_id": 7, "phrase": text, "x": 1, "y": 2, "width": 3, "height": 4}
                for text in ("a red door", " a dog ", "a red door", "")
            ],
        },
        {"id": 9, "regions": [{"image_id": 9, "phrase": "grass"}]},
        {"id": 9, "regions": [{"image_id": 9, "phrase": "grass again"}]},
        {"id": 11, "regions": [{"image_id": 11, "phrase": " "}]},
        {"regions": []},
    ]
    path = tmp_path / "region_descriptions.json"
    path.write_text(json.dumps(document))
    assert detect_format(str(path)) is import_format("visual-genome-regions")
    done = imported("visual-genome-regions", [path], tmp_path / "out", max_broken_fraction=0.9)
    captions = CaptionedImages.from_shards(str(tmp_path / "out")).captions
    assert captions == (("a red door", "a dog"), ("grass",))
    assert [line.partition(": ")[0].rpartition("json ")[2] for line in done.broken_rows] == [
        "image 11",
        "image 9",
        "image 4",
    ]
    other = tmp_path / "objects.json"
    other.write_text(json.dumps([{"image_id": 7, "objects": []}]))
    with pytest.raises(DataError, match="is no list of images with 'regions'"):
        imported("visual-genome-regions", [other], tmp_path / "other")


def test_webdataset_is_packed_anew_with_every_member(tmp_path: Path) -> None:
    write_shards(tmp_path / "in", 10, 4)
    write_samples(tmp_path / "in" / "x.tar", [sample(3, **{"seg.png": picture(9), "json": None})])
    (tmp_path / "in" / "classes.json").write_text('["a", "b", "c"]')
    done = imported("webdataset", [tmp_path / "in"], tmp_path / "out", samples_per_shard=6)
    assert done.samples == 11
    assert [p.name for p in sorted((tmp_path / "out").glob("*.tar"))] == [
        "shard-000000.tar",
        "shard-000001.tar",
    ]
    before, after = read_all(tmp_path / "in"), read_all(tmp_path / "out")
    for old, new in zip(before, after, strict=True):
        assert (old.image_bytes, old.text, old.class_index, old.meta_bytes) == (
            new.image_bytes,
            new.text,
            new.class_index,
            new.meta_bytes,
        )
    assert json.loads((tmp_path / "out/classes.json").read_text()) == ["a", "b", "c"]
    import tarfile

    with tarfile.open(tmp_path / "out" / "shard-000001.tar") as archive:
        member = archive.extractfile("000000010.seg.png")
        assert member is not None
        assert member.read() == picture(9)


def test_sources_with_other_classes_are_not_mixed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shards(tmp_path / name, 2, 2)
        (tmp_path / name / "classes.json").write_text(json.dumps([name]))
    with pytest.raises(ConfigurationError, match=r"different classes\.json"):
        imported("webdataset", [tmp_path / "a", tmp_path / "b"], tmp_path / "out")


def test_s3_is_source_and_target(tmp_path: Path, s3_settings: S3Settings) -> None:
    root = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    storage = open_storage(root, s3_settings)
    storage.write("photos/0.png", picture(0))
    storage.write("pairs.csv", b"image,caption\nphotos/0.png,a cat\n")
    kind = import_format("csv")
    import_data(kind, [f"{root}/pairs.csv"], f"{root}/out", s3=s3_settings)
    again = import_data(kind, [f"{root}/pairs.csv"], f"{root}/out", s3=s3_settings)
    assert again.known
    shards = ShardSet.open(f"{root}/out", s3_settings)
    assert [shards.read(i).text for i in range(len(shards))] == ["a cat"]
    assert {e.key for e in storage.list("out/")} == {
        "out/import.json",
        "out/manifest.json",
        "out/shard-000000.tar",
        "out/shard-000000.tar.idx",
    }


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_a_source_that_is_missing_or_empty_is_one_line_with_its_name(
    kind: str, tmp_path: Path
) -> None:
    for name in ("missing", "empty"):
        source = tmp_path / name
        if name == "empty":
            folders = ("class-folders", "webdataset", "voc", "roboflow")
            source.write_bytes(b"") if kind not in folders else source.mkdir()
        with pytest.raises(DataError) as failure:
            imported(kind, [source], tmp_path / "out")
        assert str(source) in str(failure.value)
        assert len(str(failure.value).splitlines()) == 1
        assert not (tmp_path / "out").exists()


def test_tables_without_what_is_needed_list_their_columns(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", ["url", "caption"], [])
    with pytest.raises(ConfigurationError, match=r"imageColumn.*but url, caption"):
        imported("csv", [tmp_path / "a.csv"], tmp_path / "out")
    write_table(tmp_path / "b.csv", ["image", "alt"], [])
    with pytest.raises(ConfigurationError, match=r"textColumn.*but image, alt"):
        imported("csv", [tmp_path / "b.csv"], tmp_path / "out")
    with pytest.raises(ConfigurationError, match=r"textColumn.*no column 'titel'"):
        imported("csv", [tmp_path / "b.csv"], tmp_path / "out", text_column="titel")
