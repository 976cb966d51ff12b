"""VQAv2's files as shards: every question with its image, and a line for whatever is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from florence.data.importing.importer import Imported, import_data
from florence.data.importing.once import detect_format, import_once
from florence.data.importing.registry import import_format
from florence.data.importing.settings import Questions
from florence.data.questions import QuestionImages, QuestionSet, list_questions, questions_in
from florence.data.shards import Need, ShardSet
from florence.errors import ConfigurationError, DataError
from florence.text.answers import majority
from tests.florence.data.making import picture


def annotated(identifier: int, answers: list[Any]) -> dict[str, Any]:
    return {
        "question_id": identifier,
        "question_type": "what",
        "answer_type": "other",
        "answers": [{"answer": answer, "answer_id": i} for i, answer in enumerate(answers)],
    }


def write(folder: Path, questions: list[Any], annotations: list[Any] | None) -> list[str]:
    """Two files and three images."""
    for number in range(3):
        (folder / f"COCO_val_{number:012d}.jpg").write_bytes(picture(number, kind="JPEG"))
    sources = [folder / "v2_OpenEnded_val_questions.json"]
    sources[0].write_text(json.dumps({"data_subtype": "val", "questions": questions}))
    if annotations is not None:
        sources.append(folder / "v2_val_annotations.json")
        sources[1].write_text(json.dumps({"annotations": annotations}))
    return [str(source) for source in sources]


def asked(identifier: int, image: Any, text: str = "what is it?") -> dict[str, Any]:
    return {"question_id": identifier, "image_id": image, "question": text}


def imported(folder: Path, sources: list[str], **settings: Any) -> Imported:
    chosen = Questions(max_broken_fraction=1, **settings)
    return import_data(import_format("vqa"), sources, str(folder / "out"), chosen)


def question_set(uri: str) -> QuestionSet:
    images = ShardSet.open(uri, need=Need.IMAGE)
    return QuestionSet(images, list_questions(images, majority).counts)


def test_every_question_is_a_sample_with_its_image(tmp_path: Path) -> None:
    questions = [asked(1, 0), asked(2, 2), asked(3, 0, "how many?"), asked(4, 1)]
    answers = [annotated(i, ["two"] * 6 + ["Dog"] * 4) for i in (4, 3, 2, 1)]
    result = imported(tmp_path, write(tmp_path, questions, answers))
    assert (result.samples, result.broken) == (3, 0)
    found = question_set(result.uri)
    assert len(found) == 4
    texts = {found.question(i).question_id: found.question(i) for i in range(4)}
    assert texts[3].text == "how many?"
    assert texts[3].answers == ("two",) * 6 + ("Dog",) * 4
    assert (texts[3].question_type, texts[3].answer_type) == ("what", "other")
    keys = {found.read(i).key for i in range(4)}
    assert len(keys) == 4
    for i in range(4):
        sample = found.read(i)
        assert sample.text == found.question(i).text
        number = {1: 0, 2: 2, 3: 0, 4: 1}[sample.meta["question_id"]]
        assert sample.image_bytes == picture(number, kind="JPEG")
        assert QuestionImages(found).image(i).size == (24, 20)
        assert found.key(i) == sample.key
    listed = list_questions(ShardSet.open(result.uri, need=Need.IMAGE), majority)
    assert dict(listed.majorities) == {"2": 4}


def test_a_test_set_has_no_answers_and_images_without_questions_may_be_there(
    tmp_path: Path,
) -> None:
    result = imported(tmp_path, write(tmp_path, [asked(1, 1)], None))
    assert question_set(result.uri).question(0).answers == ()
    assert questions_in({"questions": "none"}) == []


def test_annotations_are_found_beside_and_the_format_by_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLORENCE_HOME", str(tmp_path / "home"))
    sources = write(tmp_path, [asked(1, 1)], [annotated(1, ["x"] * 10)])
    found = detect_format(sources[0])
    assert found is not None
    assert found.name == "vqa"
    assert question_set(str(import_once(sources[0]))).question(0).answers == ("x",) * 10


@pytest.mark.parametrize(
    ("question", "annotation", "said"),
    [
        (asked(1, 0), annotated(2, ["x"] * 10), "question 1: has no annotation"),
        (asked(1, 0), annotated(2, ["x"] * 10), "question 2: no question has this id"),
        (asked(1, 0, " "), annotated(1, ["x"] * 10), "question 1: has no text"),
        (asked(1, 0, "\ud800?"), annotated(1, ["x"] * 10), "question 1: its text is not Unicode"),
        (asked(1, 9), annotated(1, ["x"] * 10), "question 1: .*COCO_val_000000000009.jpg does not"),
        (asked(1, 0), annotated(1, ["x"] * 9 + [" "]), "question 1: an answer is empty"),
        (asked(1, 0), annotated(1, ["x"] * 9 + ["\udc00"]), "question 1: an answer is not Unicode"),
        (asked(1, 0), annotated(1, []), "question 1: has no answers"),
        (asked(1, 0), annotated(1, [7] * 10), "question 1: has no answers"),
        (asked(1, 0), annotated(1, ["x"] * 3), "question 1: has 3 answers instead of 10"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(
    tmp_path: Path, question: Any, annotation: Any, said: str
) -> None:
    sources = write(tmp_path, [asked(7, 0), question], [annotated(7, ["x"] * 10), annotation])
    result = imported(tmp_path, sources)
    lines = [line for line in result.broken_rows if re.search(said, line)]
    assert len(lines) == 1, result.broken_rows
    assert len(question_set(result.uri)) == 1


def test_any_number_of_answers_and_other_names_may_be_allowed(tmp_path: Path) -> None:
    sources = write(tmp_path, [asked(1, 0)], [annotated(1, ["x"])])
    (tmp_path / "0-val.jpg").write_bytes(picture(9))
    result = imported(tmp_path, sources, annotators=0, image_name="{id}-{subtype}.jpg")
    assert question_set(result.uri).read(0).image_bytes == picture(9)
    with pytest.raises(ConfigurationError, match=r"imageName '\{number\}' cannot be filled in"):
        imported(tmp_path / "other", sources, annotators=0, image_name="{number}")


def test_other_files_are_refused(tmp_path: Path) -> None:
    sources = write(tmp_path, [asked(1, 0)], [annotated(1, ["x"] * 10)])
    with pytest.raises(DataError, match="has no list 'questions'"):
        imported(tmp_path, sources[1:])
    Path(sources[0]).write_bytes(b'{"questions": [{"question": "caf\xe9"}]}')
    with pytest.raises(DataError, match="is not UTF-8"):
        imported(tmp_path, sources)
