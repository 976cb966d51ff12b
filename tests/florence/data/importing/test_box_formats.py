"""Formats with boxes: what the files say is what the shards hold; what is wrong is one line."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from florence.data.boxes import AnnotatedImage, annotated_image
from florence.data.importing.importer import Imported, import_data
from florence.data.importing.once import detect_format, import_once
from florence.data.importing.registry import import_format
from florence.data.shards import Need, ShardSet
from florence.data.vocabularies import Vocabulary, read_vocabularies
from florence.errors import ConfigurationError, DataError
from florence.storage import open_storage
from tests.florence.data.making import picture

WIDTH, HEIGHT = 40, 30


def imported(kind: str, sources: Sequence[Path], out: Path, **settings: Any) -> Imported:
    known = import_format(kind)
    given = {"max_broken_fraction": 1.0, **settings}
    return import_data(known, [str(s) for s in sources], str(out), known.settings(**given))


def records(out: Path) -> list[AnnotatedImage]:
    shards = ShardSet.open(str(out), need=Need.IMAGE)
    return [annotated_image(shards.read(i).meta) for i in range(len(shards))]


def boxes(image: AnnotatedImage) -> list[tuple[Any, ...]]:
    return [(box.category, *(round(value, 6) for value in box.bbox)) for box in image.boxes]


def draw(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(seed, WIDTH, HEIGHT))


def write_json(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def box(number: int, image: int, category: int, bbox: Any, **fields: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": bbox, **fields}


def image(number: int, **fields: Any) -> dict[str, Any]:
    name = {"file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT}
    return {"id": number, **name, **fields}


CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 90, "name": "cat"}]
POLYGON = [[1, 1, 5, 1, 5, 5]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(1, 4):
        draw(tmp_path / "in" / f"{number}.png", number)
    return tmp_path / "in"


@pytest.mark.parametrize(
    "order", [["images", "annotations", "categories"], ["annotations", "categories", "images"]]
)
def test_coco_keeps_every_box_in_any_order_of_the_lists(folder: Path, order: list[str]) -> None:
    document = {
        "images": [image(1), image(2), image(3)],
        "annotations": [
            box(11, 2, 90, [1.25, 2, 3, 4], area=9.5, iscrowd=0, segmentation=POLYGON),
            box(12, 1, 7, [0, 0, WIDTH, HEIGHT], iscrowd=1),
            box(13, 2, 7, [30, 20, 20, 20], score=0.5, pseudo=True),
        ],
        "categories": CATEGORIES,
    }
    source = write_json(folder / "instances.json", {name: document[name] for name in order})
    done = imported("coco", [source], folder.parent / "out", strict=True)
    assert (done.rows, done.samples, done.boxes, done.broken_boxes, done.classes) == (3, 3, 3, 0, 2)
    one, two, three = records(folder.parent / "out")
    assert (one.image_id, one.source, one.width, one.height) == (1, "coco", WIDTH, HEIGHT)
    assert boxes(one) == [("dog", 0, 0, WIDTH, HEIGHT)]
    assert one.boxes[0].crowd
    # What reaches over the edge is cut there.
    assert boxes(two) == [("cat", 1.25, 2, 3, 4), ("dog", 30, 20, 10, 10)]
    assert (two.boxes[0].area, two.boxes[1].score) == (9.5, 0.5)
    assert three.boxes == ()
    storage = open_storage(str(folder.parent / "out"))
    assert read_vocabularies(storage) == {"coco": Vocabulary(("dog", "cat"))}
    assert ShardSet.open(str(folder.parent / "out"), need=Need.IMAGE).class_names == ("dog", "cat")


BAD_BOXES = [
    (box(1, 1, 7, [50, 2, 3, 4]), "annotation 1 has a box outside the image of 40x30"),
    (box(1, 1, 7, [5, 2, 0, 4]), "annotation 1 has a box of no area"),
    (box(1, 1, 7, [5, 2, -3, 4]), r"annotation 1 has swapped corners \(width -3"),
    (box(1, 1, 7, [5, float("nan"), 3, 4]), "annotation 1 has no box: bbox holds something else"),
    (box(1, 1, 7, [5, 2, 3]), "annotation 1 has no box: bbox is no list of four"),
    (box(1, 1, 8, [5, 2, 3, 4]), "annotation 1 has category_id 8, which no category has"),
    (box(1, 1, 7, None, segmentation=POLYGON), "annotation 1 has a polygon and no bbox"),
    (box(2, 1, 7, [5, 2, 3, 4]), "annotation 2 has the id of another one"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_BOXES)
def test_a_bad_box_is_left_out_and_named(folder: Path, bad: dict[str, Any], message: str) -> None:
    document = {
        "images": [image(1)],
        "annotations": [box(2, 1, 90, [1, 1, 2, 2]), bad, box(3, 1, 7, [2, 2, 4, 4])],
        "categories": CATEGORIES,
    }
    source = write_json(folder / "instances.json", document)
    done = imported("coco", [source], folder.parent / "out")
    assert (done.samples, done.broken, done.boxes, done.broken_boxes) == (1, 0, 2, 1)
    (line,) = done.broken_rows
    assert re.match(f"{re.escape(str(source))} image 1: {message}", line)
    assert boxes(records(folder.parent / "out")[0]) == [("cat", 1, 1, 2, 2), ("dog", 2, 2, 4, 4)]
    with pytest.raises(DataError, match=f"image 1: {message}.*strict stops"):
        imported("coco", [source], folder.parent / "strict", strict=True)
    with pytest.raises(DataError, match="1 of 3 boxes are broken"):
        imported("coco", [source], folder.parent / "judged", max_broken_fraction=0.2)


@pytest.mark.parametrize(
    ("images", "annotations", "message"),
    [
        ([image(1), image(1)], [], "image 1: is listed twice"),
        ([image(1), image(9)], [], "9.png does not exist: add the file"),
        ([image(1), {"file_name": "2.png"}], [], r"images\[1\]: has no id"),
        ([image(1), image(2, width=30, height=40)], [], "image 2: the image is 40x30 pixels and"),
        ([image(1)], [box(1, 5, 7, [1, 1, 2, 2])], "annotation 1: is of image 5, which is not"),
        ([image(1), image(2, file_name="")], [], "image 2: no image is named"),
    ],
)
def test_a_bad_image_is_a_broken_row(
    folder: Path, images: list[Any], annotations: list[Any], message: str
) -> None:
    document = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    source = write_json(folder / "instances.json", document)
    done = imported("coco", [source], folder.parent / "out")
    assert (done.rows, done.samples, done.broken) == (2, 1, 1)
    assert message.replace("\\", "") in done.broken_rows[0]
    with pytest.raises(DataError, match=message):
        imported("coco", [source], folder.parent / "strict", strict=True)


def test_blank_categories_are_dropped_with_their_boxes_unless_kept(folder: Path) -> None:
    document = {
        "images": [image(1)],
        "annotations": [box(1, 1, 0, [1, 1, 2, 2]), box(2, 1, 7, [2, 2, 4, 4])],
        "categories": [{"id": 0, "name": ""}, *CATEGORIES],
    }
    source = write_json(folder / "instances.json", document)
    done = imported("coco", [source], folder.parent / "out", strict=True)
    assert (done.boxes, done.classes) == (1, 2)
    assert imported("coco", [source], folder.parent / "kept", keep_blank=True).boxes == 2


def test_a_smaller_copy_has_smaller_boxes(folder: Path) -> None:
    document = {
        "images": [image(1, width=80, height=64)],
        "annotations": [box(1, 1, 7, [8, 16, 24, 32], area=400)],
        "categories": CATEGORIES,
    }
    (folder / "1.png").write_bytes(picture(1, 80, 64))
    source = write_json(folder / "instances.json", document)
    imported("coco", [source], folder.parent / "out", shorter_side=16)
    (record,) = records(folder.parent / "out")
    assert (record.width, record.height) == (20, 16)
    assert (boxes(record), record.boxes[0].area) == ([("dog", 2, 4, 6, 8)], 25)


def test_lvis_takes_cocos_images_and_says_what_is_not_there(folder: Path) -> None:
    draw(folder / "train2017" / "000009.png")
    url = "http://images.example.org/train2017/000009.png"
    document = {
        "images": [
            {
                "id": 9, "coco_url": url, "width": WIDTH, "height": HEIGHT,
                "neg_category_ids": [90], "not_exhaustive_category_ids": [7],
            }
        ],
        "annotations": [box(1, 9, 7, [1, 1, 2, 2])],
        "categories": [
            {**CATEGORIES[0], "frequency": "f"}, {**CATEGORIES[1], "frequency": "r"},
        ],
    }  # fmt: skip
    source = write_json(folder / "lvis.json", document)
    assert detect_format(str(source)) is import_format("lvis")
    imported("lvis", [source], folder.parent / "out", strict=True)
    (record,) = records(folder.parent / "out")
    assert (record.image_id, record.negatives, record.not_exhaustive) == (9, ("cat",), ("dog",))
    known = read_vocabularies(open_storage(str(folder.parent / "out")))
    assert known == {"lvis": Vocabulary(("dog", "cat"), federated=True, frequencies=("f", "r"))}


def test_objects365_finds_images_in_patches(folder: Path) -> None:
    draw(folder / "patch8" / "objects365_v1_1.png")
    document = {
        "images": [image(1, file_name="images/v1/patch8/objects365_v1_1.png")],
        "annotations": [box(1, 1, 7, [1, 1, 2, 2])],
        "categories": CATEGORIES,
    }
    source = write_json(folder / "zhiyuan.json", document)
    imported("objects365", [source], folder.parent / "out", strict=True)
    assert [r.source for r in records(folder.parent / "out")] == ["objects365"]


def write_csv(path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def jpeg(path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT)).save(buffer, "JPEG")
    path.write_bytes(buffer.getvalue())


def test_open_images_has_fractions_groups_and_verified_negatives(folder: Path) -> None:
    header = [
        "ImageID",
        "Source",
        "LabelName",
        "Confidence",
        "XMin",
        "XMax",
        "YMin",
        "YMax",
        "IsGroupOf",
    ]
    rows = [
        header,
        ["a1", "x", "/m/1", 1, 0.25, 0.5, 0.1, 0.3, 0],
        ["b2", "x", "/m/2", 1, 0, 1, 0, 1, 1],
        ["a1", "x", "/m/2", 1, 0.5, 0.25, 0.1, 0.3, 0],
        ["a1", "x", "/m/9", 1, 0.5, 0.75, 0.1, 0.3, 0],
        ["a1", "x", "/m/1", 1, "", 0.75, 0.1, 0.3, 0],
    ]
    source = write_csv(folder / "train-annotations-bbox.csv", rows)
    for name in ("a1", "b2"):
        jpeg(folder / f"{name}.jpg")
    with pytest.raises(ConfigurationError, match=r"class-descriptions-boxable\.csv lies beside"):
        imported("openimages", [source], folder.parent / "out")
    write_csv(folder / "class-descriptions-boxable.csv", [["/m/1", "Cat"], ["/m/2", "Dog"]])
    labels = write_csv(
        folder / "labels.csv",
        [["ImageID", "Source", "LabelName", "Confidence"],
         ["a1", "v", "/m/2", 0], ["a1", "v", "/m/1", 1], ["a1", "v", "/m/77", 0]],
    )  # fmt: skip
    done = imported("openimages", [source], folder.parent / "out", image_labels=str(labels))
    assert (done.samples, done.boxes, done.broken_boxes) == (2, 2, 3)
    first, second = records(folder.parent / "out")
    assert boxes(first) == [("Cat", 10, 3, 10, 6)]
    assert (first.negatives, second.negatives) == (("Dog",), ())
    assert [b.crowd for b in second.boxes] == [True]
    assert [line.partition(": ")[2].partition(":")[0] for line in done.broken_rows] == [
        "row 4 has swapped corners (width -10, height 6)",
        "row 5 has label /m/9, which the class descriptions do not name",
        "row 6 has no box",
    ]
    known = read_vocabularies(open_storage(str(folder.parent / "out")))
    assert known == {"openimages": Vocabulary(("Cat", "Dog"), federated=True)}


def test_visual_genome_joins_attributes_by_object(folder: Path) -> None:
    draw(folder / "VG_100K_2" / "5.jpg")
    jpeg(folder / "VG_100K_2" / "5.jpg")
    objects = [
        {"object_id": 1, "names": ["Dog "], "x": 1, "y": 2, "w": 3, "h": 4},
        {"object_id": 2, "names": ["tree"], "x": 5, "y": 6, "w": 3, "h": 0},
        {"object_id": 3, "names": [], "x": 5, "y": 6, "w": 3, "h": 1},
    ]
    source = write_json(folder / "objects.json", [{"image_id": 5, "objects": objects}])
    write_json(
        folder / "attributes.json",
        [{"image_id": 5, "attributes": [{"object_id": 1, "attributes": ["Red", "big", "red "]}]}],
    )
    write_json(folder / "image_data.json", [{"image_id": 5, "width": WIDTH, "height": HEIGHT}])
    assert detect_format(str(source)) is import_format("visual-genome")
    done = imported("visual-genome", [source], folder.parent / "out")
    (record,) = records(folder.parent / "out")
    assert boxes(record) == [("dog", 1, 2, 3, 4)]
    assert record.boxes[0].attributes == ("red", "big")
    assert ["object 2 has a box of no area" in done.broken_rows[0], done.broken_boxes] == [True, 2]
    names = folder / "names.txt"
    names.write_text("tree\n")
    imported("visual-genome", [source], folder.parent / "tree", classes=str(names))
    assert boxes(records(folder.parent / "tree")[0]) == []


def voc_xml(name: str, *objects: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    head = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    return f"<annotation><filename>{name}</filename>{head}{''.join(objects)}</annotation>"


def voc_box(name: str, *corners: float, difficult: int = 0) -> str:
    tags = ("xmin", "ymin", "xmax", "ymax")
    inner = "".join(f"<{t}>{c}</{t}>" for t, c in zip(tags, corners, strict=True))
    hard = f"<difficult>{difficult}</difficult>"
    return f"<object><name>{name}</name>{hard}<bndbox>{inner}</bndbox></object>"


def test_voc_counts_pixels_from_one(tmp_path: Path) -> None:
    root = tmp_path / "VOC2007"
    draw(root / "JPEGImages" / "a.png")
    draw(root / "JPEGImages" / "b.png")
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    text = voc_xml(
        "a.png", voc_box("dog", 1, 1, WIDTH, HEIGHT), voc_box("cat", 3, 4, 3, 5, difficult=1)
    )
    (root / "Annotations" / "a.xml").write_text(text)
    bad = "<object><name>cow</name><polygon><x1>1</x1></polygon></object>"
    (root / "Annotations" / "b.xml").write_text(voc_xml("b.png", bad))
    (root / "Annotations" / "c.xml").write_text("<annotation>")
    (root / "ImageSets" / "Main" / "one.txt").write_text("a 1\n")
    done = imported("voc", [root], tmp_path / "out")
    first, second = records(tmp_path / "out")
    assert boxes(first) == [("dog", 0, 0, WIDTH, HEIGHT), ("cat", 2, 3, 1, 2)]
    assert [b.crowd for b in first.boxes] == [False, True]
    assert second.boxes == ()
    assert (done.broken, done.broken_boxes) == (1, 1)
    assert "b.xml: object 0 has a polygon and no bndbox" in done.broken_rows[0]
    assert "c.xml: is not XML" in done.broken_rows[1]
    imported("voc", [root], tmp_path / "one", split="one", strict=True)
    assert [r.image_id for r in records(tmp_path / "one")] == ["a"]
    known = read_vocabularies(open_storage(str(tmp_path / "one")))
    assert known == {"voc": Vocabulary(("cat", "dog"))}
    with pytest.raises(DataError, match=r"ImageSets/Main/two\.txt: check --split"):
        imported("voc", [root], tmp_path / "two", split="two")


def write_yolo(root: Path, train: Any, names: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "data.yaml").write_text(yaml.safe_dump({"train": train, "names": names}))
    return root / "data.yaml"


@pytest.mark.parametrize(
    "train", ["images/train", "../images/train", ["./images/train"], "train.txt"]
)
@pytest.mark.parametrize("names", [["dog", "cat"], {0: "dog", 1: "cat"}])
def test_yolo_finds_images_however_the_path_is_written(
    tmp_path: Path, train: Any, names: Any
) -> None:
    root = tmp_path / "set"
    source = write_yolo(root, train, names)
    for number in (1, 2):
        draw(root / "images" / "train" / f"{number}.png", number)
    (root / "train.txt").write_text("./images/train/1.png\n./images/train/2.png\n")
    (root / "labels" / "train").mkdir(parents=True)
    (root / "labels" / "train" / "1.txt").write_text("1 0.5 0.5 0.25 0.2\n\n")
    done = imported("yolo", [source], tmp_path / "out", strict=True)
    first, second = records(tmp_path / "out")
    assert boxes(first) == [("cat", 15, 12, 10, 6)]
    assert (second.boxes, done.classes) == ((), 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 0.5 0.5 0.25 0.2 0.9", "line 1 has a sixth number"),
        ("1 0.1 0.1 0.5 0.1 0.5 0.5", r"line 1 is a polygon and no box \(7 numbers\)"),
        ("1 0.5 0.5", "line 1 is too short"),
        ("2 0.5 0.5 0.25 0.2", "line 1 has class 2, and 2 have names"),
        ("cat 0.5 0.5 0.25 0.2", "line 1 holds something else than numbers: 'cat 0.5"),
        ("1 nan 0.5 0.25 0.2", "line 1 has a number in its box that is not finite"),
        ("1 1.5 0.5 0.25 0.2", "line 1 has a box outside the image"),
        ("1 0.5 0.5 -0.25 0.2", "line 1 has swapped corners"),
    ],
)
def test_a_bad_line_of_yolo_is_named(tmp_path: Path, line: str, message: str) -> None:
    source = write_yolo(tmp_path / "set", "images", ["dog", "cat"])
    draw(tmp_path / "set" / "images" / "1.png")
    (tmp_path / "set" / "labels").mkdir()
    (tmp_path / "set" / "labels" / "1.txt").write_text(line)
    with pytest.raises(DataError, match=rf"labels/1\.txt: {message}.*strict"):
        imported("yolo", [source], tmp_path / "strict", strict=True)
    done = imported("yolo", [source], tmp_path / "out")
    assert (done.samples, done.boxes, done.broken_boxes) == (1, 0, 1)


def test_roboflow_exports_of_every_form_are_the_same_boxes(tmp_path: Path) -> None:
    document = {
        "images": [image(0, file_name="a.png")],
        "annotations": [box(0, 0, 1, [4, 6, 20, 12])],
        "categories": [{"id": 0, "name": "pieces"}, {"id": 1, "name": "dog"}],
    }
    draw(tmp_path / "coco" / "valid" / "a.png")
    write_json(tmp_path / "coco" / "valid" / "_annotations.coco.json", document)
    draw(tmp_path / "yolo" / "valid" / "images" / "a.png")
    (tmp_path / "yolo" / "valid" / "labels").mkdir()
    (tmp_path / "yolo" / "valid" / "labels" / "a.txt").write_text("0 0.35 0.4 0.5 0.4")
    settings = {"train": "../train/images", "val": "../valid/images", "names": ["dog"]}
    (tmp_path / "yolo" / "data.yaml").write_text(yaml.safe_dump(settings))
    draw(tmp_path / "voc" / "valid" / "a.png")
    (tmp_path / "voc" / "valid" / "a.xml").write_text(
        voc_xml("a.png", voc_box("dog", 4, 6, 24, 18))
    )
    for form in ("coco", "yolo", "voc"):
        out = tmp_path / f"{form}-out"
        imported("roboflow", [tmp_path / form], out, split="valid", strict=True)
        assert boxes(records(out)[0]) == [("dog", 4, 6, 20, 12)]
    with pytest.raises(DataError, match="no export of Roboflow with a split 'test'"):
        imported("roboflow", [tmp_path / "coco"], tmp_path / "none", split="test")


def test_a_stage_imports_a_json_once(folder: Path, tmp_path: Path) -> None:
    document = {
        "images": [image(1)],
        "annotations": [box(1, 1, 7, [1, 1, 2, 2])],
        "categories": CATEGORIES,
    }
    source = write_json(folder / "instances.json", document)
    assert detect_format(str(source)) is import_format("coco")
    first = import_once(str(source), home=tmp_path / "home")
    stamps = {p: p.stat().st_mtime_ns for p in first.iterdir()}
    assert import_once(str(source), home=tmp_path / "home") == first
    assert {p: p.stat().st_mtime_ns for p in first.iterdir()} == stamps
    assert len(records(first)) == 1
