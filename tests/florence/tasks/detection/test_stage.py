"""Detection stages in real processes: they learn, resume exactly, and are the same on any ranks."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import florence
from florence.checkpoint import newest
from florence.config import EngineKind
from florence.distributed.parameter_rules import apply_rules
from florence.errors import ConfigurationError, DataError, StoppedError
from florence.stages.context import Stop
from florence.storage import open_storage
from florence.tasks.detection.task import DetectionTask
from tests.florence.running import Recording
from tests.florence.tasks.detection.running import (
    ATTRIBUTES,
    CLASSES,
    context,
    run,
    run_on_rank,
    scene_shards,
    settings,
)
from tests.florence.tasks.detection.scenes import picture, scene
from tests.florence.tasks.finetune.running import metrics, stored, two_tower_folder
from tests.gang import run_gang

CLOSE = {"rtol": 2e-3, "atol": 2e-5}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> str:
    return scene_shards(tmp_path_factory.mktemp("scenes"), 12, empty=3)


@pytest.fixture(scope="module")
def two_towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_tower_folder(tmp_path_factory.mktemp("towers"))


@pytest.fixture(scope="module")
def trained(scenes: str, two_towers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector after a few steps, measured on its own images."""
    folder = tmp_path_factory.mktemp("trained")
    run(context(folder, start=two_towers), settings(scenes, steps=4, validation=scenes))
    return folder


@pytest.fixture(scope="module")
def zero_shot(scenes: str, two_towers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of anything on a frozen tower."""
    folder = tmp_path_factory.mktemp("zero-shot")
    config = settings(
        scenes,
        steps=3,
        classAgnostic=True,
        frozenTower=True,
        validation=scenes,
        inference={"scoreThreshold": 0.001, "proposals": 5},
    )
    run(context(folder, start=two_towers), config)
    return folder


def test_a_detector_is_left_with_its_classes(trained: Path) -> None:
    card = stored(trained).card
    assert card.task == "detection"
    assert card.labels == CLASSES
    assert card.head is not None
    assert (card.head["classes"], card.head["long_side"]) == (3, 96)
    assert {name.partition(".")[0] for name in stored(trained).state} == {"image", "head"}


def test_it_is_measured(trained: Path) -> None:
    found = metrics(trained)
    assert {"boxes/ap", "boxes/ap50", "boxes/ar100"} <= found.keys()
    assert (trained / "pictures/boxes/worst.png").exists()
    assert (trained / "pictures/boxes/precision-recall.png").exists()


def test_it_starts_from_the_tower(scenes: str, two_towers: Path, tmp_path: Path) -> None:
    task = DetectionTask(settings(scenes, steps=1), context(tmp_path), stored(two_towers).card)
    model = task.model(stored(two_towers), init=True)
    for name, value in stored(two_towers).state.items():
        if name.startswith("image."):
            assert torch.equal(model.state_dict()[name], value), name


def test_a_detector_of_the_same_classes_goes_on_where_it_was(
    scenes: str, trained: Path, tmp_path: Path
) -> None:
    config = settings(scenes, steps=1, optimizer={"lr": 1e-12, "warmupSteps": 0})
    run(context(tmp_path, start=trained), config)
    for name, value in stored(trained).state.items():
        torch.testing.assert_close(stored(tmp_path).state[name], value)


def test_a_prediction_has_boxes_in_pixels_of_the_image(trained: Path) -> None:
    model = florence.load(str(trained), device="cpu")
    image = picture(scene(1, 64, 64)[0])
    (answer,) = model.predict(image, threshold=0.0)
    assert answer["boxes"] == [] or {"label", "class", "score", "box"} == answer["boxes"][0].keys()
    scores = [box["score"] for box in answer["boxes"]]
    assert scores == sorted(scores, reverse=True)
    for box in answer["boxes"]:
        x1, y1, x2, y2 = box["box"]
        assert 0 <= x1 <= x2 <= 64
        assert 0 <= y1 <= y2 <= 64
    with pytest.raises(ValueError, match="threshold must be a number"):
        model.predict(image, threshold=2)


def test_a_zero_shot_detector_names_boxes_with_any_words(zero_shot: Path) -> None:
    card = stored(zero_shot).card
    assert (card.task, card.labels) == ("zeroShotDetection", ())
    assert card.head is not None
    assert card.head["tower_resolution"] == 16
    model = florence.load(str(zero_shot), device="cpu")
    image = picture(scene(1, 64, 64)[0])
    (answer,) = model.predict(image, labels=["red bicycle", "dog"], threshold=0.0)
    assert {box["label"] for box in answer["boxes"]} <= {"red bicycle", "dog"}
    (anything,) = model.predict(image, threshold=0.0)
    assert {box["label"] for box in anything["boxes"]} <= {"object"}
    assert "boxes/ap50" in metrics(zero_shot)


def test_its_towers_stay_as_they_were_to_the_last_bit(zero_shot: Path, two_towers: Path) -> None:
    after = stored(zero_shot).state
    for name, value in stored(two_towers).state.items():
        assert torch.equal(after[name].reshape(value.shape), value), name


def test_another_models_towers_can_name_its_boxes(
    zero_shot: Path, two_towers: Path, scenes: str, tmp_path: Path
) -> None:
    from florence.config import Evaluate
    from florence.kinds import KINDS
    from florence.stages.evaluate import evaluate

    one = {"name": "own", "data": scenes, "inference": {"proposals": 5, "scoreThreshold": 0.001}}
    other = {**one, "name": "other", "classifier": str(two_towers)}
    config = Evaluate.model_validate({"detection": [one, other], "workers": 0})
    evaluate(context(tmp_path, start=zero_shot), config, KINDS["evaluate"])
    found = metrics(tmp_path)
    assert found["own/ap50"] == pytest.approx(found["other/ap50"])


def test_a_resumed_run_ends_with_the_same_bits(scenes: str, tmp_path: Path) -> None:
    config = settings(scenes, steps=4)
    run(context(tmp_path / "whole"), config)
    stop = Stop()

    def report(progress: object) -> None:
        if progress.phase == "train" and progress.step == 2:  # type: ignore[attr-defined]
            stop.request()

    with pytest.raises(StoppedError, match="after step 2"):
        run(context(tmp_path / "cut", report=report, stop=stop), config)
    assert newest(open_storage(str(tmp_path / "cut"))) is not None
    run(context(tmp_path / "cut", attempt=2), config)
    expected, resumed = stored(tmp_path / "whole").state, stored(tmp_path / "cut").state
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


@pytest.mark.slow
def test_ranks_and_chunks_do_not_matter(scenes: str, tmp_path: Path) -> None:
    config = settings(scenes, steps=2, validation=scenes)
    run(context(tmp_path / "one"), config)
    chunked = config.model_copy(update={"gradient_cache_chunks": 2})
    run_gang(run_on_rank, 2, tmp_path / "several", chunked, timeout=550)
    expected, got = stored(tmp_path / "one").state, stored(tmp_path / "several").state
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], **CLOSE)
    assert metrics(tmp_path / "several") == pytest.approx(metrics(tmp_path / "one"), abs=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
)
@pytest.mark.parametrize("stage", [1, 3])
def test_engines_reach_the_same_parameters(scenes: str, tmp_path: Path, stage: int) -> None:
    config = settings(scenes, steps=3, validation=scenes)
    run(context(tmp_path / "torch"), config)
    sharded = config.model_copy(update={"engine": EngineKind.DEEPSPEED, "zero_stage": stage})
    run_gang(run_on_rank, 2, tmp_path / "deepspeed", sharded, timeout=550)
    expected, got = stored(tmp_path / "torch").state, stored(tmp_path / "deepspeed").state
    assert expected.keys() == got.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], **CLOSE)


def test_rates_and_what_is_frozen(scenes: str, tmp_path: Path) -> None:
    config = settings(scenes, steps=1, frozenStages=2, optimizer={"layerDecay": 0.5})
    task = DetectionTask(config, context(tmp_path), None)
    model = task.model(None, init=True)
    training = apply_rules(model, task.rules(model), config.optimizer)
    assert training["head.anchors.logits.weight"].lr_scale == 1
    assert training["image.layers.3.blocks.0.norm1.weight"].lr_scale == pytest.approx(0.1)
    assert training["image.layers.2.blocks.0.norm1.weight"].lr_scale == pytest.approx(0.05)
    frozen = {name for name, each in training.items() if each.frozen}
    starts = ("patch_embed.", "layers.0.", "layers.1.", "norm.", "projection.")
    assert frozen == {
        name for name in training if name.startswith(tuple(f"image.{start}" for start in starts))
    }


def test_few_shots_train_until_the_validation_stops_rising(scenes: str, tmp_path: Path) -> None:
    """The rate is too small to change a score, so that nothing is better than the first time."""
    config = settings(
        scenes,
        epochs=20,
        shots=1,
        frozenStages=2,
        validation=scenes,
        evaluateEverySteps=1,
        keepBest=True,
        earlyStop=3,
        optimizer={"lr": 1e-12, "schedule": "plateau", "patience": 2, "warmupSteps": 0},
    )
    recorder = Recording()
    run(replace(context(tmp_path), recorder=recorder), config)
    rates = [
        values["learning_rate"] for values in recorder.values.values() if "train/loss" in values
    ]
    assert rates == pytest.approx([1e-12, 1e-12, 1e-12, 1e-13])
    assert "boxes/ap" in metrics(tmp_path)


def test_attributes_are_learnt_beside_classes(scenes: str, tmp_path: Path) -> None:
    names = tmp_path / "attributes.txt"
    names.write_text("\n".join(ATTRIBUTES))
    config = settings(
        scenes, steps=12, attributes=str(names), optimizer={"lr": 0.02, "warmupSteps": 1}
    )
    run(context(tmp_path / "run"), config)
    left = stored(tmp_path / "run")
    assert left.card.head is not None
    assert tuple(left.card.head["attributes"]) == ATTRIBUTES
    before = math.log(0.01 / 0.99)
    plain, wide = left.state["head.attributes.fc.bias"].tolist()
    assert plain > before
    assert plain > wide  # it is said of more objects


def test_data_without_boxes_is_refused(tmp_path: Path) -> None:
    from tests.florence.data.making import write_shards

    write_shards(tmp_path / "data", 4, 4)
    with pytest.raises(DataError, match=r"vocabularies\.json is missing"):
        run(context(tmp_path / "run"), settings(str(tmp_path / "data"), steps=1))


def test_another_number_of_classes_is_refused(scenes: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"classes: the stage expects 5 and .* has 3"):
        run(context(tmp_path), settings(scenes, steps=1, classes=5))


def test_a_zero_shot_detector_needs_texts(scenes: str, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot start from a detection model"):
        run(context(tmp_path, start=trained), settings(scenes, steps=1, classAgnostic=True))


def test_boxes_of_a_mirrored_second_look_are_joined(trained: Path) -> None:
    from florence.config.detection import Inference
    from florence.tasks.detection.detector import detector_of
    from florence.tasks.detection.looking import Look

    model = stored(trained)
    settings_of = Inference(score_threshold=0.001)
    plain = Look(detector_of(model), model.card.mean, model.card.std, 64, settings_of)
    several = settings_of.model_copy(update={"flip": True, "short_sides": (48, 64)})
    more = Look(detector_of(model), model.card.mean, model.card.std, 64, several)
    image = picture(scene(1, 64, 64)[0])
    with torch.no_grad():
        one, all_looks = plain.raw(image), more.raw(image)
    assert len(all_looks.scores) > 2 * len(one.scores) > 0
    mirror = image.transpose(0)
    with torch.no_grad():
        twice = plain.raw(mirror).mirrored(64)
    flipped = settings_of.model_copy(update={"flip": True})
    with torch.no_grad():
        both = Look(detector_of(model), model.card.mean, model.card.std, 64, flipped).raw(image)
    torch.testing.assert_close(both.boxes[len(one.boxes) :], twice.boxes, rtol=1e-3, atol=1e-2)
