"""Scenes of digits: true captions and answers, weak guesses, and the field's own files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

import florence.data.digit_questions as scenes_of_digits
from florence.data.digit_questions import (
    captions_of_scene,
    language_only_accuracy,
    make_scene,
    questions_of_scene,
    questions_of_split,
    write_questions,
)
from florence.data.digits import TRAIN_COUNT, WORDS
from florence.data.importing.importer import import_data
from florence.data.importing.registry import import_format
from florence.data.importing.settings import Karpathy, KarpathySplit, Questions
from florence.data.labelled import CaptionedImages
from florence.data.questions import QuestionSet, list_questions
from florence.data.shards import Need, ShardSet
from florence.text.answers import accuracy, majority

CLASSES = load_digits(return_X_y=True)[1].astype(np.int64)


def test_answers_are_true_of_the_scene() -> None:
    for number in range(300):
        scene = make_scene("train", number, CLASSES)
        assert scene.digits == tuple(CLASSES[list(scene.scans)].tolist())
        many, largest, left, there, total = questions_of_scene("train", scene)
        assert many["multiple_choice_answer"] == str(len(scene.digits))
        assert largest["multiple_choice_answer"] == str(max(scene.digits))
        assert total["multiple_choice_answer"] == str(sum(scene.digits))
        asked = WORDS.index(there["question"].removeprefix("is there a ").rstrip("?"))
        assert there["multiple_choice_answer"] == ("yes" if asked in scene.digits else "no")
        place = scene.digits.index(WORDS.index(left["question"].split()[-1].rstrip("?")))
        expected = str(scene.digits[place - 1]) if place else "nothing"
        assert left["multiple_choice_answer"] == expected
        for each in (many, largest, left, there, total):
            assert len(each["answers"]) == 10
            assert accuracy(majority(each["answers"]), each["answers"]) == 1.0
        assert any(len(set(each["answers"])) > 1 for each in (many, largest, left, there, total))


def test_captions_name_all_digits_and_their_number() -> None:
    for number in range(100):
        scene = make_scene("test", number, CLASSES)
        captions = captions_of_scene(scene)
        assert len(set(captions)) == 5
        for caption in captions:
            said = [w for w in caption.replace(",", " ").replace(":", " ").split() if w in WORDS]
            names = [WORDS[digit] for digit in scene.digits]
            assert sorted(said) == sorted([*names, WORDS[len(names)]])


def test_the_splits_share_no_scan() -> None:
    for number in range(200):
        assert max(make_scene("train", number, CLASSES).scans) < TRAIN_COUNT
        assert min(make_scene("test", number, CLASSES).scans) >= TRAIN_COUNT


def test_who_does_not_look_is_right_in_less_than_45_percent() -> None:
    assert (
        0.2 < language_only_accuracy(questions_of_split("train"), questions_of_split("test")) < 0.45
    )


def test_shards_and_files_are_the_same_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenes_of_digits, "SCENES", {"train": 7, "test": 5})
    assert write_questions(str(tmp_path)) == {"train": 7, "test": 5}
    files = tmp_path / "test-files"
    sources = [str(files / name) for name in ("questions.json", "annotations.json")]
    made = import_data(import_format("vqa"), sources, str(tmp_path / "vqa"), Questions())
    assert (made.samples, made.broken) == (5, 0)
    karpathy = Karpathy(split=KarpathySplit.TEST)
    source = [str(files / "dataset_digits.json")]
    import_data(import_format("karpathy"), source, str(tmp_path / "captions"), karpathy)
    written = CaptionedImages.from_shards(str(tmp_path / "test"))
    assert written.captions == CaptionedImages.from_shards(str(tmp_path / "captions")).captions
    sets = []
    for uri in (tmp_path / "test", tmp_path / "vqa"):
        images = ShardSet.open(str(uri), need=Need.IMAGE)
        sets.append(QuestionSet(images, list_questions(images, majority).counts))
    assert len(sets[0]) == len(sets[1]) == 25
    for i in range(25):
        assert sets[0].question(i) == sets[1].question(i)
        assert sets[0].read(i).image_bytes == sets[1].read(i).image_bytes
    document = json.loads((files / "questions.json").read_text())
    assert document["data_subtype"] == "test"
