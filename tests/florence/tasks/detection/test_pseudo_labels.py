from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence.data.boxes import annotated_image
from florence.data.flod.settings import FLOD
from florence.data.importing.importer import Imported, import_data
from florence.data.importing.pseudo import PSEUDO_LABELS
from florence.data.shards import Need, ShardSet
from florence.data.vocabularies import Vocabulary, read_vocabularies
from florence.errors import ConfigurationError
from florence.tasks.detection import pseudo_labels
from tests.florence.data.making import sample, write_samples

COUNT = 6


@dataclass
class Card:
    task: str
    labels: tuple[str, ...] = ()


class Finder:
    """Finds a box whose place tells the image: from the mean of its pixels."""

    def __init__(self) -> None:
        self.looked = 0

    def predict(
        self, rows: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        self.looked += len(rows)
        names = parameters.get("labels", ["cat", "dog"])
        answers = []
        for row in rows:
            assert isinstance(row["image"], Image.Image)
            place = float(np.asarray(row["image"]).mean()) / 16
            found = [(names[0], 0.9, place), (names[-1], 0.55, 1.0), (names[-1], 0.3, 2.0)]
            answers.append(
                {
                    "boxes": [
                        {"label": label, "score": score, "box": [x, 1.0, x + 4, 5.0]}
                        for label, score, x in found
                        if score >= parameters["threshold"]
                    ]
                }
            )
        return answers


@dataclass
class Model:
    card: Card
    predictor: Finder


@pytest.fixture
def model(monkeypatch) -> Model:
    found = Model(Card("detection", ("cat", "dog")), Finder())
    monkeypatch.setattr(pseudo_labels, "load", lambda uri, s3: found)
    return found


def run(tmp_path: Path, out: str = "out", **settings: Any) -> Imported:
    source = tmp_path / "in"
    if not source.exists():
        write_samples(source / "a.tar", [sample(i) for i in range(COUNT)])
    (tmp_path / "model").mkdir(exist_ok=True)
    given = PSEUDO_LABELS.settings(detector=str(tmp_path / "model"), **settings)
    return import_data(PSEUDO_LABELS, [str(source)], str(tmp_path / out), given)


def test_boxes_are_those_that_the_detector_finds_with_their_scores(
    tmp_path: Path, model: Model
) -> None:
    done = run(tmp_path)
    assert (done.samples, done.boxes, done.classes) == (COUNT, 2 * COUNT, 2)
    shards = ShardSet.open(str(tmp_path / "out"), need=Need.IMAGE)
    assert read_vocabularies(shards.storage) == {"pseudo": Vocabulary(("cat", "dog"))}
    before = ShardSet.open(str(tmp_path / "in"), need=Need.IMAGE)
    for i in range(COUNT):
        old, new = before.read(i), shards.read(i)
        assert (new.image_bytes, new.text, new.class_index) == (
            old.image_bytes, old.text, old.class_index,
        )  # fmt: skip
        record = annotated_image(new.meta)
        assert (record.source, record.width, record.height) == ("pseudo", 24, 20)
        assert [(b.category, b.score) for b in record.boxes] == [("cat", 0.9), ("dog", 0.55)]
        assert record.boxes[0].bbox[2:] == pytest.approx((4, 4))
        assert new.meta["pseudo"] is True
    assert run(tmp_path, "more", threshold=0.1).boxes == 3 * COUNT


def test_a_killed_run_looks_at_no_image_twice(tmp_path: Path, model: Model) -> None:
    class KilledError(Exception):
        pass

    def kill(name: str, rows: int, samples: int) -> None:
        raise KilledError

    source = tmp_path / "in"
    write_samples(source / "a.tar", [sample(i) for i in range(COUNT)])
    (tmp_path / "model").mkdir()
    settings = PSEUDO_LABELS.settings(
        detector=str(tmp_path / "model"), samples_per_shard=3, workers=1
    )
    with pytest.raises(KilledError):
        import_data(PSEUDO_LABELS, [str(source)], str(tmp_path / "out"), settings, on_shard=kill)
    looked = model.predictor.looked
    model.predictor.looked = 0
    done = import_data(PSEUDO_LABELS, [str(source)], str(tmp_path / "out"), settings)
    assert (done.samples, model.predictor.looked) == (COUNT, 3)
    assert looked >= 3
    whole = run(tmp_path, "whole")
    assert whole.boxes == done.boxes


def test_they_merge_with_peoples_boxes(tmp_path: Path, model: Model) -> None:
    run(tmp_path)
    done = import_data(FLOD, [f"pseudo={tmp_path / 'out'}"], str(tmp_path / "flod"))
    assert (done.samples, done.boxes) == (COUNT, 2 * COUNT)


def test_a_zero_shot_detector_is_told_what_to_find(tmp_path: Path, model: Model) -> None:
    model.card = Card("zeroShotDetection")
    with pytest.raises(ConfigurationError, match=r"labels: .*name what to find"):
        run(tmp_path)
    run(tmp_path, labels=("owl", "elk"))
    shards = ShardSet.open(str(tmp_path / "out"), need=Need.IMAGE)
    record = annotated_image(shards.read(0).meta)
    assert [b.category for b in record.boxes] == ["owl", "elk"]


def test_other_models_are_refused(tmp_path: Path, model: Model) -> None:
    model.card = Card("contrastive")
    with pytest.raises(ConfigurationError, match="is a contrastive model: give a detector"):
        run(tmp_path)
    model.card = Card("detection", ("cat",))
    with pytest.raises(ConfigurationError, match="leave them out"):
        run(tmp_path, labels=("cat",))
