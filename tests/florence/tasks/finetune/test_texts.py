"""The modes that train both towers: classes as texts, and captions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import florence
from florence.data.importing.once import import_once
from tests.florence.tasks.finetune.running import (
    COLOURS,
    context,
    metrics,
    picture,
    prompts_file,
    run,
    run_on_rank,
    settings,
    stored,
)
from tests.gang import run_gang

LEARNING = {"steps": 60, "optimizer": {"lr": 5e-3, "warmupSteps": 5}}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Karpathy json of 12 images with two captions each, images beside it."""
    folder = tmp_path_factory.mktemp("captioned")
    images = []
    for number in range(12):
        colour = list(COLOURS)[number % 3]
        (folder / f"{number}.png").write_bytes(picture(colour, number))
        sentences = [{"raw": f"a {colour} thing"}, {"raw": f"all of it is {colour}"}]
        split = "train" if number < 9 else "test"
        images.append(
            {"filename": f"{number}.png", "split": split, "imgid": number, "sentences": sentences}
        )
    path = folder / "dataset.json"
    path.write_text(json.dumps({"images": images, "dataset": "colours"}))
    return str(path)


def test_class_names_become_texts(
    colours: str, held_out: str, two_towers: Path, tmp_path: Path
) -> None:
    prompts = prompts_file(tmp_path / "prompts.yaml")
    config = settings("contrastive", colours, prompts=prompts, validation=held_out, **LEARNING)
    told = context(tmp_path / "run", start=two_towers)
    run(told, config)
    assert metrics(tmp_path / "run")["contrastive/top1"] == 1.0
    # Three classes in twelve rows: positives of each other by class.
    assert told.recorder.values[1]["positives_per_row"] >= 4  # type: ignore[attr-defined]
    card = stored(tmp_path / "run").card
    assert card.task == "contrastive"
    assert card.templates == ("a {} picture", "something {}")
    model = florence.load(str(tmp_path / "run"), device="cpu")
    (answer,) = model.predict(picture("red", 9), labels=["green", "red", "blue"])
    assert answer["label"] == "red"


def test_ranks_do_not_matter(colours: str, two_towers: Path, tmp_path: Path) -> None:
    prompts = prompts_file(tmp_path / "prompts.yaml")
    config = settings("contrastive", colours, prompts=prompts, steps=3)
    run(context(tmp_path / "one", start=two_towers), config)
    run_gang(run_on_rank, 2, tmp_path / "two", config, two_towers)
    expected, got = stored(tmp_path / "one").state, stored(tmp_path / "two").state
    for name in expected:
        # Key biases have no gradient but rounding errors, which Adam makes steps of.
        keys = {"rtol": 0.0, "atol": 1e-3} if name.endswith(("qkv.bias", "in_proj_bias")) else CLOSE
        torch.testing.assert_close(got[name], expected[name], **keys)


def test_captions_are_trained_on_and_retrieved(
    captioned: str, two_towers: Path, tmp_path: Path
) -> None:
    config = settings(
        "retrieval",
        captioned,
        batchSize=9,
        validation=captioned,
        pairs={"label": "text", "captionsPerImage": 2},
        **LEARNING,
    )
    run(context(tmp_path, start=two_towers), config)
    found = metrics(tmp_path)
    recalls = {name: value for name, value in found.items() if name.startswith("retrieval/")}
    assert len(recalls) >= 6
    assert all(value == 1.0 for name, value in recalls.items() if "1" in name.split("@")[-1][:1])
    # No template of ours: those of the model it started from are kept.
    assert stored(tmp_path).card.templates == ("a photo of a {}",)


def test_labels_by_image_and_by_text_differ(captioned: str, tmp_path: Path) -> None:
    """Nine images of three colours: by image each is alone, by text those of a colour are not."""
    shards = str(import_once(captioned))
    positives = {}
    for label in ("image", "text"):
        config = settings(
            "retrieval",
            shards,
            batchSize=9,
            steps=1,
            pairs={"label": label, "captionsPerImage": 1},
        )
        told = context(tmp_path / label)
        run(told, config)
        values = told.recorder.values[1]  # type: ignore[attr-defined]
        positives[label] = values["positives_per_row"]
    assert positives == {"image": 1.0, "text": 3.0}
