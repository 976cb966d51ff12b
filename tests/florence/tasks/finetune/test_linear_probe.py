"""Mode linearProbe: the head that scikit-learn would fit, on any ranks, stopped in time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import florence
from florence.config.progress import StageProgress
from florence.data.labelled import LabelledImages
from florence.errors import ConfigurationError, DataError, StoppedError
from florence.models.classifier import classifier_of
from florence.models.opening import open_stored
from florence.stages.context import Stop
from tests.florence.data.making import write_samples
from tests.florence.tasks.finetune.running import (
    NAMES,
    class_folders,
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

SEARCH = {"strengths": 7, "strengthMin": 1e-3, "strengthMax": 1e3}


@pytest.fixture(scope="module")
def solved(
    colours: str, held_out: str, two_towers: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("probed")
    config = settings(
        "linearProbe",
        colours,
        validation=held_out,
        linearProbe=SEARCH,
        compareWithScratch=True,
    )
    run(context(folder, start=two_towers), config)
    return folder


def test_it_leaves_a_classifier_and_figures_of_both_towers(solved: Path) -> None:
    found = metrics(solved)
    assert next(iter(found)) == "linear-probe/top1"
    assert found["linear-probe/top1"] == 1.0
    assert 0 <= found["linear-probe/top1/scratch"] <= 1
    assert 0 <= found["linear-probe/meanPerClass/scratch"] <= 1
    assert 1e-3 <= found["linear-probe/strength"] <= 1e3
    card = stored(solved).card
    assert card.task == "classification"
    assert card.labels == NAMES
    assert card.mean == (0.5, 0.4, 0.3)  # of the model that is probed
    (answer,) = florence.load(str(solved), device="cpu").predict(picture("blue", 4))
    assert answer["label"] == "blue"


def test_the_tower_is_the_one_that_was_probed(solved: Path, two_towers: Path) -> None:
    before, after = open_stored(str(two_towers)).state, stored(solved).state
    kept = [name for name in before if name.startswith("image.")]
    assert kept
    assert all(torch.equal(before[name], after[name]) for name in kept)


def test_the_head_is_the_regression_of_all_features(
    solved: Path, colours: str, two_towers: Path
) -> None:
    data = LabelledImages.open(colours)
    model = classifier_of(stored(solved))
    card = stored(solved).card
    batches = data.batches(resolution=16, mean=card.mean, std=card.std, batch_size=64)
    images, labels = next(iter(batches))
    with torch.no_grad():
        features = model.image.features(images).numpy()
        logits = model(images).numpy()
    strength = metrics(solved)["linear-probe/strength"]
    expected = LogisticRegression(C=1 / strength, max_iter=1000).fit(features, labels.numpy())
    scores = expected.decision_function(features)
    np.testing.assert_allclose(logits - logits.mean(1, keepdims=True), scores, atol=0.02)


def test_ranks_do_not_matter(
    solved: Path, colours: str, held_out: str, two_towers: Path, tmp_path: Path
) -> None:
    config = settings("linearProbe", colours, validation=held_out, linearProbe=SEARCH)
    run_gang(run_on_rank, 2, tmp_path, config, two_towers)
    one, two = metrics(solved), metrics(tmp_path)
    for name, value in two.items():
        assert value == pytest.approx(one[name], rel=1e-6)
    expected, got = stored(solved).state, stored(tmp_path).state
    torch.testing.assert_close(got["head.fc.weight"], expected["head.fc.weight"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("phase", ["features", "search"])
def test_progress_is_told_and_a_stop_is_obeyed(
    colours: str, two_towers: Path, tmp_path: Path, phase: str
) -> None:
    config = settings("linearProbe", colours, batchSize=8, linearProbe=SEARCH)
    seen: list[StageProgress] = []
    stop = Stop()

    def report(progress: StageProgress) -> None:
        seen.append(progress)
        if progress.phase == phase and progress.step:
            stop.request()

    with pytest.raises(StoppedError, match="it starts over next time"):
        run(context(tmp_path, start=two_towers, report=report, stop=stop), config)
    assert seen[-1].phase == phase
    assert 0 < seen[-1].step < seen[-1].total
    assert not (tmp_path / "metrics.json").exists()


def test_names_of_data_and_prompts_must_agree(
    colours: str, two_towers: Path, tmp_path: Path
) -> None:
    prompts = prompts_file(tmp_path / "p.yaml", ("red", "green", "pink"))
    config = settings("linearProbe", colours, prompts=prompts, linearProbe=SEARCH)
    with pytest.raises(ConfigurationError, match=r"prompts: .* only the data has 'blue'"):
        run(context(tmp_path / "run", start=two_towers), config)


def test_search_data_is_used_and_its_names_are_matched(
    colours: str, held_out: str, two_towers: Path, tmp_path: Path
) -> None:
    linear = {**SEARCH, "searchData": held_out}
    config = settings("linearProbe", colours, validation=held_out, linearProbe=linear)
    run(context(tmp_path / "run", start=two_towers), config)
    assert metrics(tmp_path / "run")["linear-probe/top1"] == 1.0
    other = tmp_path / "other"
    class_folders(other, 2)
    (other / "red").rename(other / "yellow")
    config = settings("linearProbe", colours, linearProbe={**SEARCH, "searchData": str(other)})
    with pytest.raises(ConfigurationError, match="yellow"):
        run(context(tmp_path / "again", start=two_towers), config)


def test_one_class_is_told(two_towers: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "red"
    folder.mkdir(parents=True)
    for i in range(3):
        (folder / f"{i}.png").write_bytes(picture("red", i))
    config = settings("linearProbe", str(folder.parent), linearProbe=SEARCH)
    with pytest.raises(DataError, match="all of one class"):
        run(context(tmp_path / "run", start=two_towers), config)


def test_images_of_several_classes_are_judged_by_average_precision(
    two_towers: Path, tmp_path: Path
) -> None:
    def sample(i: int) -> tuple[str, dict[str, bytes]]:
        colour = NAMES[i % 3]
        labels = [i % 3] if i % 2 else [i % 3, 3]
        meta = {"labels": labels, "difficult": []}
        return f"{i:03d}", {"png": picture(colour, i), "json": json.dumps(meta).encode()}

    write_samples(tmp_path / "data" / "0.tar", [sample(i) for i in range(30)])
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text(json.dumps({"classes": [*NAMES, "even"], "metric": "mAP11"}))
    data = str(tmp_path / "data")
    config = settings(
        "linearProbe", data, prompts=str(prompts), validation=data, linearProbe=SEARCH
    )
    run(context(tmp_path / "run", start=two_towers), config)
    assert metrics(tmp_path / "run")["linear-probe/mAP11"] > 0.6
    assert stored(tmp_path / "run").card.head == {
        "classes": 4,
        "dropout": 0.0,
        "exclusive": False,
    }
    (answer,) = florence.load(str(tmp_path / "run"), device="cpu").predict(picture("red", 1))
    assert len(answer["probabilities"]) == 4
    assert sum(answer["probabilities"].values()) != pytest.approx(1, abs=1e-3)
