from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence.data.boxes import AnnotatedImage, Annotation, annotated_image
from florence.data.vocabularies import (
    NAME,
    Vocabulary,
    all_names,
    annotated_names,
    read_vocabularies,
    vocabularies_bytes,
)
from florence.errors import DataError
from florence.storage import open_storage

finite = st.floats(0, 1e6, allow_nan=False)
names = st.text(min_size=1, max_size=5)
annotations = st.builds(
    Annotation,
    bbox=st.tuples(finite, finite, st.floats(0.1, 1e5), st.floats(0.1, 1e5)),
    category=names,
    crowd=st.booleans(),
    score=st.floats(0, 1),
    attributes=st.none() | st.lists(names).map(tuple),
    area=st.none() | finite,
)
images = st.builds(
    AnnotatedImage,
    image_id=st.integers() | names,
    width=st.integers(1, 9999),
    height=st.integers(1, 9999),
    source=st.sampled_from(["coco", "coco+lvis"]),
    boxes=st.lists(annotations, max_size=3).map(tuple),
    negatives=st.none() | st.lists(names).map(tuple),
    not_exhaustive=st.lists(names).map(tuple),
)


@given(images)
def test_a_record_survives_its_json(image: AnnotatedImage) -> None:
    assert annotated_image(json.loads(json.dumps(image.wire()))) == image


GOOD = {"image_id": 1, "width": 9, "height": 9, "source": "coco", "boxes": []}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": None}, "is no record of boxes"),
        ({"width": 0}, "width or height is 0"),
        ({"image_id": None}, "image_id is None"),
        ({"negatives": "cat"}, "is no list of names"),
        ({"boxes": [{"bbox": [0, 0, 1, 1]}]}, r"boxes\[0\] has no category"),
        ({"boxes": [{"bbox": [0, 0, 1], "category": "a"}]}, "four numbers"),
        ({"boxes": [{"bbox": [0, 0, 0, 1], "category": "a"}]}, "has no area"),
        ({"boxes": [{"bbox": [0, float("nan"), 1, 1], "category": "a"}]}, "finite numbers"),
        ({"boxes": [{"bbox": [0, 0, 1, 1], "category": "a", "score": 2}]}, "between 0 and 1"),
    ],
)
def test_what_is_no_record_says_why(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        annotated_image({**GOOD, **change})


def test_missing_fields_are_named() -> None:
    with pytest.raises(ValueError, match="no list 'boxes'"):
        annotated_image({"caption": "x"})
    with pytest.raises(ValueError, match="no field 'source'"):
        annotated_image({key: value for key, value in GOOD.items() if key != "source"})


VOCABULARIES = {
    "coco": Vocabulary(("cat", "dog")),
    "lvis": Vocabulary(("cat", "owl", "elk", "fox"), federated=True, frequencies=tuple("frcf")),
}


def test_vocabularies_survive_their_file(tmp_path) -> None:
    storage = open_storage(str(tmp_path))
    assert read_vocabularies(storage) is None
    storage.write(NAME, vocabularies_bytes(VOCABULARIES))
    assert read_vocabularies(storage) == VOCABULARIES
    assert all_names(VOCABULARIES) == ("cat", "dog", "owl", "elk", "fox")
    storage.write(NAME, b'{"a": {"names": ["x", "x"]}}')
    with pytest.raises(DataError, match="import the data again"):
        read_vocabularies(storage)


def image(source: str, *categories: str, **fields: object) -> AnnotatedImage:
    boxes = tuple(Annotation(bbox=(0, 0, 1, 1), category=name) for name in categories)
    given = {"image_id": 1, "width": 9, "height": 9, "source": source, "boxes": boxes, **fields}
    return AnnotatedImage(**given)


@pytest.mark.parametrize(
    ("annotated", "expected"),
    [
        (image("coco"), {"cat", "dog"}),
        (image("lvis", "owl", negatives=("elk",)), {"owl", "elk"}),
        (image("lvis", "owl", negatives=("elk",), not_exhaustive=("owl",)), {"elk"}),
        (image("coco+lvis", "owl", negatives=("elk",)), {"cat", "dog", "owl", "elk"}),
        # COCO counted all cats, whatever LVIS says of its own.
        (image("coco+lvis", "cat", negatives=(), not_exhaustive=("cat",)), {"cat", "dog"}),
        (image("other", "owl"), None),
    ],
)
def test_which_names_were_looked_for(annotated: AnnotatedImage, expected: set[str] | None) -> None:
    found = annotated_names(annotated, VOCABULARIES)
    assert found == (None if expected is None else frozenset(expected))
