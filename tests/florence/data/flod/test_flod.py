from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence.data.boxes import AnnotatedImage, Annotation, annotated_image
from florence.data.flod.merge import SAME, intersection_over_union, merged, renamed
from florence.data.flod.names import NameTable, plain, read_names, shipped_names
from florence.data.flod.settings import FLOD
from florence.data.importing.importer import Imported, import_data
from florence.data.importing.registry import import_format
from florence.data.shards import Need, ShardSet
from florence.data.vocabularies import Vocabulary, annotated_names, read_vocabularies
from florence.errors import ConfigurationError, DataError
from florence.storage import open_storage
from tests.florence.data.making import picture, write_shards

TEXT = (
    "person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant "
    "stop_sign parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe "
    "backpack umbrella handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat "
    "baseball_glove skateboard surfboard tennis_racket bottle wine_glass cup fork knife spoon "
    "bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair couch "
    "potted_plant bed dining_table toilet tv laptop mouse remote keyboard cell_phone microwave "
    "oven toaster sink refrigerator book clock vase scissors teddy_bear hair_drier toothbrush"
)
NAMES = TEXT.split()


def test_coco_keeps_its_names_and_the_others_come_to_them() -> None:
    table = shipped_names()
    assert len(NAMES) == 80
    assert [table.canonical("coco", name) for name in NAMES] == [
        name.replace("_", " ") for name in NAMES
    ]
    for source, name, expected in [
        ("lvis", "fireplug", "fire hydrant"),
        ("lvis", "television_set", "tv"),
        ("lvis", "teddy_bear", "teddy bear"),
        ("objects365", "Moniter/TV", "tv"),
        ("objects365", "Cell Phone", "cell phone"),
        ("openimages", "Computer mouse", "mouse"),
        ("openimages", "Mouse", "mouse (animal)"),
        ("openimages", "Man", "man"),
        ("mine", "Fire_Hydrant", "fire hydrant"),
    ]:
        assert table.canonical(source, name) == expected


def test_no_entry_of_the_table_is_idle_or_no_plain_name() -> None:
    for source, names in shipped_names().entries().items():
        for name, canonical in names.items():
            assert name != canonical, (source, name)
            assert plain(canonical) == canonical


def test_a_persons_own_table_wins(tmp_path: Path) -> None:
    (tmp_path / "names.yaml").write_text("mine: {Auto: car}\nlvis: {sofa: settee}\n")
    table = read_names(str(tmp_path / "names.yaml"), None)
    assert table.canonical("mine", "AUTO") == "car"
    assert table.canonical("lvis", "sofa") == "settee"
    assert table.canonical("lvis", "fireplug") == "fire hydrant"
    for text in ("[1]", "mine: car", "mine: {a: 1}"):
        (tmp_path / "names.yaml").write_text(text)
        with pytest.raises(ConfigurationError, match="is no table of names"):
            read_names(str(tmp_path / "names.yaml"), None)
    with pytest.raises(ConfigurationError, match="does not exist"):
        read_names(str(tmp_path / "other.yaml"), None)


sides = st.floats(1, 50)
rectangles = st.tuples(st.floats(0, 50), st.floats(0, 50), sides, sides)


@given(rectangles, rectangles)
def test_iou_is_that_of_torchvision(one: Any, other: Any) -> None:
    import torch
    from torchvision.ops import box_iou

    corners = [
        torch.tensor([[x, y, x + w, y + h]], dtype=torch.float64) for x, y, w, h in (one, other)
    ]
    expected = box_iou(*corners).item()
    assert intersection_over_union(one, other) == pytest.approx(expected, abs=1e-9)


def image(source: str, *boxes: Annotation, **fields: Any) -> AnnotatedImage:
    known = {"image_id": 1, "width": 99, "height": 99, "source": source, "boxes": boxes}
    return AnnotatedImage(**{**known, **fields})


def box(category: str, x: float = 10, **fields: Any) -> Annotation:
    return Annotation(bbox=(x, 10, 20, 20), category=category, **fields)


def test_boxes_of_shared_images_are_kept_once() -> None:
    coco = image("coco", box("cat"), box("dog", 40), box("cow", 60, crowd=True))
    lvis = image(
        "lvis",
        box("cat", 10.5),  # IoU 0.95: the same cat
        box("cat", 12),  # IoU 0.82: another one
        box("owl", 40),  # of another name
        box("cow", 60),  # one of the crowd
        negatives=("elk", "dog"),
    )
    both = merged([coco, lvis])
    assert both.source == "coco+lvis"
    assert [(b.category, b.bbox[0]) for b in both.boxes] == [
        ("cat", 10), ("dog", 40), ("cow", 60), ("cat", 12), ("owl", 40), ("cow", 60),
    ]  # fmt: skip
    assert both.negatives == ("elk",)  # COCO has a dog
    assert intersection_over_union((10, 10, 20, 20), (10.5, 10, 20, 20)) > SAME


def test_a_persons_box_stands_before_a_detectors() -> None:
    pseudo = image("pseudo", box("cat", 10.2, score=0.8), box("dog", 50, score=0.6))
    both = merged([pseudo, image("coco", box("cat"))])
    assert [(b.category, b.score) for b in both.boxes] == [("cat", 1.0), ("dog", 0.6)]


def test_records_are_renamed_with_their_lists() -> None:
    record = image(
        "x", box("fireplug"), negatives=("sofa", "couch"), not_exhaustive=("television_set",)
    )
    found = renamed(record, "lvis", shipped_names())
    assert [b.category for b in found.boxes] == ["fire hydrant"]
    assert (found.negatives, found.not_exhaustive) == (("couch",), ("tv",))


def write_coco(
    folder: Path, name: str, images: dict[int, int], boxes: list[Any], **extra: Any
) -> Path:
    """Images by id, each the picture of a seed."""
    for number, seed in images.items():
        (folder / f"{name}-{number}.png").write_bytes(picture(seed, 40, 30))
    names = sorted({category for _, category, _ in boxes} | set(extra.get("names", ())))
    document = {
        "images": [
            {"id": n, "file_name": f"{name}-{n}.png", **extra.get("fields", {}).get(n, {})}
            for n in images
        ],
        "annotations": [
            {"id": i, "image_id": n, "category_id": names.index(c), "bbox": b}
            for i, (n, c, b) in enumerate(boxes)
        ],
        "categories": [{"id": i, "name": c, "frequency": "r"} for i, c in enumerate(names)],
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document))
    return path


def shards_of(kind: str, source: Path) -> Path:
    out = source.with_suffix("")
    import_data(import_format(kind), [str(source)], str(out))
    return out


def merge(out: Path, *sources: str, **settings: Any) -> Imported:
    return import_data(FLOD, list(sources), str(out), FLOD.settings(**settings))


def test_data_sets_become_one(tmp_path: Path) -> None:
    coco = write_coco(
        tmp_path, "coco", {1: 1, 2: 2}, [(1, "couch", [1, 1, 10, 10]), (2, "tv", [2, 2, 9, 9])]
    )
    lvis = write_coco(
        tmp_path,
        "lvis",
        {7: 2, 8: 3},
        [(7, "television_set", [2, 2, 9, 9]), (7, "owl", [20, 2, 9, 9])],
        names=["sofa"],
        fields={7: {"neg_category_ids": [1], "not_exhaustive_category_ids": []}},
    )
    sources = (f"coco={shards_of('coco', coco)}", f"lvis={shards_of('lvis', lvis)}")
    done = merge(tmp_path / "flod", *sources)
    assert (done.rows, done.samples, done.broken, done.boxes, done.classes) == (3, 3, 0, 3, 3)
    shards = ShardSet.open(str(tmp_path / "flod"), need=Need.IMAGE)
    records = [annotated_image(shards.read(i).meta) for i in range(3)]
    assert [(r.source, r.image_id) for r in records] == [
        ("coco", 1), ("coco+lvis", 2), ("lvis", 8),
    ]  # fmt: skip
    assert [[b.category for b in r.boxes] for r in records] == [["couch"], ["tv", "owl"], []]
    assert [shards.read(i).image_bytes for i in range(3)] == [picture(n, 40, 30) for n in (1, 2, 3)]
    vocabularies = read_vocabularies(open_storage(str(tmp_path / "flod")))
    assert vocabularies == {
        "coco": Vocabulary(("couch", "tv"), frequencies=("r", "r")),
        "lvis": Vocabulary(("owl", "couch", "tv"), federated=True, frequencies=("r",) * 3),
    }
    # The couch that is not in LVIS' image is a negative twice, the owl was looked for only there.
    assert annotated_names(records[1], vocabularies) == {"couch", "tv", "owl"}
    assert annotated_names(records[0], vocabularies) == {"couch", "tv"}
    again = merge(tmp_path / "flod", *sources)
    assert again.known


def test_what_was_merged_can_be_merged_again(tmp_path: Path) -> None:
    one = shards_of("coco", write_coco(tmp_path, "a", {1: 1}, [(1, "cat", [1, 1, 9, 9])]))
    two = shards_of("coco", write_coco(tmp_path, "b", {1: 2}, [(1, "Dog", [1, 1, 9, 9])]))
    three = shards_of("coco", write_coco(tmp_path, "c", {1: 2}, [(1, "owl", [1, 1, 9, 9])]))
    merge(tmp_path / "ab", f"a={one}", f"b={two}")
    done = merge(tmp_path / "abc", f"ab={tmp_path / 'ab'}", f"c={three}")
    assert (done.samples, done.boxes) == (2, 3)
    shards = ShardSet.open(str(tmp_path / "abc"), need=Need.IMAGE)
    assert [annotated_image(shards.read(i).meta).source for i in range(2)] == ["a", "b+c"]
    assert set(read_vocabularies(shards.storage) or ()) == {"a", "b", "c"}


def test_a_file_is_imported_on_the_way(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("FLORENCE_HOME", str(tmp_path / "home"))
    path = write_coco(tmp_path, "a", {1: 1}, [(1, "cat", [1, 1, 9, 9])])
    assert merge(tmp_path / "out", f"mine={path}").boxes == 1


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["shards"], "'shards' is not NAME=URI"),
        (["a+b=shards"], "is not NAME=URI"),
        (["a=shards", "a=shards"], "a name comes twice"),
    ],
)
def test_sources_are_written_with_names(tmp_path: Path, sources: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        merge(tmp_path / "out", *sources)


def test_images_without_boxes_are_refused(tmp_path: Path) -> None:
    write_shards(tmp_path / "plain", 2, 2)
    with pytest.raises(DataError, match=r"has no vocabularies\.json"):
        merge(tmp_path / "out", f"a={tmp_path / 'plain'}")
    assert NameTable({}).canonical("a", "A  b_c") == "a b c"
