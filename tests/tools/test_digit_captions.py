from __future__ import annotations

import json
from pathlib import Path

import pytest
from sklearn.datasets import load_digits

from florence.data.digit_questions import SCENES, captions_of_scene, make_scene
from tools.digit_captions import caption_figures, figures_of_stage, said_of

_, CLASSES = load_digits(return_X_y=True)
TEST = [make_scene("test", number, CLASSES) for number in range(SCENES["test"])]


@pytest.mark.parametrize("which", range(5))
def test_every_true_caption_is_right(which: int) -> None:
    captions = [captions_of_scene(scene)[which] for scene in TEST]
    assert caption_figures(captions, [scene.digits for scene in TEST]) == {"count": 1, "digits": 1}


def test_what_is_wrong_is_not_counted() -> None:
    captions = [
        "two digits : a five and an eight",
        "two digits: a five",
        "a five and an eight",
        "two digits: an eight and a five",
    ]
    found = caption_figures(captions, [(5, 8)] * 4)
    assert found == {"count": 0.5, "digits": 0.5}
    assert said_of("nothing") == (None, [])


def test_a_stages_captions_are_those_of_the_test_scenes(tmp_path: Path) -> None:
    folder = tmp_path / "results/caption"
    folder.mkdir(parents=True)
    captions = [captions_of_scene(scene)[0] for scene in TEST]
    captions[0] = "no idea"
    given = [{"image_id": i, "caption": text} for i, text in enumerate(captions)]
    (folder / "caption-captions.json").write_text(json.dumps(given))
    right = 1 - 1 / SCENES["test"]
    assert figures_of_stage(tmp_path) == {"count": right, "digits": right}
