"""Mode head in real processes: it learns, resumes exactly, and is the same on any ranks."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

import florence
from florence.checkpoint import newest
from florence.config import EngineKind
from florence.data.images import decode
from florence.data.transforms import eval_transform
from florence.distributed.parameter_rules import apply_rules
from florence.errors import ConfigurationError, DataError, StoppedError
from florence.loading import predictor_of
from florence.models.classifier import classifier_of
from florence.models.opening import open_stored
from florence.stages.context import Stop
from florence.storage import open_storage
from florence.tasks.finetune.head import HeadTraining
from florence.tasks.finetune.settings import Finetune
from tests.florence.data.making import sample, write_samples
from tests.florence.tasks.finetune.running import (
    NAMES,
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

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def learning(colours: str, **changes: object) -> Finetune:
    fields = {"steps": 30, "checkpoints": {"everySteps": 100}, "head": {"lrScale": 5}}
    return settings("head", colours, **{**fields, **changes})


@pytest.fixture(scope="module")
def trained(
    colours: str, held_out: str, two_towers: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    run(context(folder, start=two_towers), learning(colours, validation=held_out))
    return folder


def test_it_learns_colours_and_is_measured_by_name(trained: Path) -> None:
    assert metrics(trained)["head/top1"] == 1.0
    assert metrics(trained)["head/meanPerClass"] == 1.0
    card = stored(trained).card
    assert card.task == "classification"
    assert card.labels == NAMES
    assert card.head == {"classes": 3, "dropout": 0.0, "exclusive": True}
    names = {name.partition(".")[0] for name in stored(trained).state}
    assert names == {"image", "head"}


def test_the_projection_is_handed_on_untouched(trained: Path, two_towers: Path) -> None:
    before, after = open_stored(str(two_towers)).state, stored(trained).state
    assert torch.equal(before["image.projection.weight"], after["image.projection.weight"])
    assert not torch.equal(before["image.norm.weight"], after["image.norm.weight"])


def test_a_prediction_is_the_softmax_by_hand(trained: Path) -> None:
    model = florence.load(str(trained), device="cpu")
    image = picture("green", 77)
    (answer,) = model.predict(image)
    card = model.card
    pixels = eval_transform(card.resolution, card.mean, card.std)(decode(image))[None]
    module = classifier_of(stored(trained))
    with torch.no_grad():
        logits = module.image.features(pixels) @ module.head.fc.weight.T + module.head.fc.bias
    expected = logits[0].softmax(0)
    assert answer["label"] == "green" == card.labels[int(expected.argmax())]
    assert answer["probability"] == pytest.approx(float(expected.max()), abs=1e-5)
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    (best,) = model.predict(image, top=1)
    assert list(best["probabilities"]) == ["green"]
    with pytest.raises(ValueError, match="top must be a whole number"):
        model.predict(image, top=0)
    assert predictor_of(stored(trained), torch.device("cpu")).predict([], {}) == []


def test_a_resumed_run_ends_with_the_same_bits(colours: str, tmp_path: Path) -> None:
    config = settings("head", colours, steps=5, head={"mixup": 0.3, "dropout": 0.2})
    run(context(tmp_path / "whole"), config)
    stop = Stop()

    def report(progress: object) -> None:
        if progress.phase == "train" and progress.step == 3:  # type: ignore[attr-defined]
            stop.request()

    with pytest.raises(StoppedError, match="after step 3"):
        run(context(tmp_path / "cut", report=report, stop=stop), config)
    assert newest(open_storage(str(tmp_path / "cut"))) is not None
    run(context(tmp_path / "cut", attempt=2), config)
    expected, resumed = stored(tmp_path / "whole").state, stored(tmp_path / "cut").state
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_ranks_and_chunks_do_not_matter(colours: str, two_towers: Path, tmp_path: Path) -> None:
    config = settings("head", colours, steps=3, head={"kind": "mlp", "hidden": 8})
    run(context(tmp_path / "one", start=two_towers), config)
    chunked = config.model_copy(update={"gradient_cache_chunks": 3})
    run_gang(run_on_rank, 2, tmp_path / "two", chunked, two_towers)
    expected, got = stored(tmp_path / "one").state, stored(tmp_path / "two").state
    assert "head.fc2.weight" in expected
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], **CLOSE)


def test_a_frozen_tower_stays_as_it_is_to_the_last_bit(
    colours: str, two_towers: Path, tmp_path: Path
) -> None:
    config = learning(
        colours,
        steps=60,
        dropPath=0.5,
        validation=colours,
        head={"frozenTower": True, "lrScale": 9},
    )
    run(context(tmp_path, start=two_towers), config)
    before, after = open_stored(str(two_towers)).state, stored(tmp_path).state
    for name, value in before.items():
        if name.startswith("image."):
            assert torch.equal(value, after[name])
    assert metrics(tmp_path)["head/top1"] > 0.6


def test_labels_are_matched_by_name(colours: str, two_towers: Path, tmp_path: Path) -> None:
    """Prompts in another order: outputs follow the prompts, not the folders."""
    order = ("red", "blue", "green")
    config = learning(
        colours,
        prompts=prompts_file(tmp_path / "prompts.yaml", order),
        validation=colours,
    )
    run(context(tmp_path / "run", start=two_towers), config)
    assert stored(tmp_path / "run").card.labels == order
    assert metrics(tmp_path / "run")["head/top1"] == 1.0
    (answer,) = florence.load(str(tmp_path / "run"), device="cpu").predict(picture("blue", 5))
    assert answer["label"] == "blue"


def test_classes_that_prompts_do_not_name_are_refused(colours: str, tmp_path: Path) -> None:
    prompts = prompts_file(tmp_path / "prompts.yaml", ("red", "green", "pink"))
    with pytest.raises(ConfigurationError, match="only the data has 'blue'"):
        run(context(tmp_path), learning(colours, prompts=prompts))


@pytest.mark.parametrize("mode", ["head", "linearProbe"])
def test_a_class_number_far_beyond_all_others_is_refused(
    mode: str, two_towers: Path, tmp_path: Path
) -> None:
    rows = [sample(0), sample(1), sample(2, cls=b"99999")]
    write_samples(tmp_path / "data/0.tar", rows)
    data = str(tmp_path / "data")
    config = learning(data) if mode == "head" else settings(mode, data)
    with pytest.raises(DataError, match=r"number 99999, and of 3 classes in all.*100000 outputs"):
        run(context(tmp_path / "run", start=two_towers), config)


def test_a_head_is_kept_where_it_fits(trained: Path, colours: str, tmp_path: Path) -> None:
    config = learning(colours, steps=1, optimizer={"lr": 1e-12, "warmupSteps": 0})
    run(context(tmp_path / "same", start=trained), config)
    before, same = stored(trained).state, stored(tmp_path / "same").state
    torch.testing.assert_close(same["head.fc.weight"], before["head.fc.weight"])
    other = config.model_copy(
        update={"prompts": prompts_file(tmp_path / "p.yaml", ("red", "green", "blue"))}
    )
    run(context(tmp_path / "other", start=trained), other)
    fresh = stored(tmp_path / "other").state
    assert not torch.allclose(fresh["head.fc.weight"], before["head.fc.weight"], atol=1e-3)
    torch.testing.assert_close(fresh["image.norm.weight"], before["image.norm.weight"])


def test_rates_rise_towards_the_head(colours: str, tmp_path: Path) -> None:
    config = learning(colours, optimizer={"layerDecay": 0.5}, head={"lrScale": 10})
    task = HeadTraining(config, context(tmp_path), None)
    model = task.model(None, init=True)
    training = apply_rules(model, task.rules(model), config.optimizer)
    scales = {name: each.lr_scale for name, each in training.items()}
    assert scales["head.fc.weight"] == scales["head.fc.bias"] == 10
    assert scales["image.norm.weight"] == scales["image.layers.3.blocks.0.norm1.weight"] == 1
    assert scales["image.layers.2.blocks.0.norm1.weight"] == 0.5
    assert scales["image.patch_embed.proj.weight"] == 0.5**4
    assert training["image.projection.weight"].frozen
    assert training["head.fc.bias"].weight_decay == 0


def test_a_csv_file_is_imported_once(colours: str, tmp_path: Path) -> None:
    rows = [f"{colour}/00{i}.png,{colour}" for colour in NAMES for i in range(6)]
    table = Path(colours).parent / "table.csv"
    folder = Path(colours).name
    table.write_text("image,label\n" + "\n".join(f"{folder}/{row}" for row in rows) + "\n")
    seen: list[str] = []
    config = learning(str(table), validation=str(table))
    run(context(tmp_path / "a", report=lambda p: seen.append(p.phase)), config)
    assert "import" in seen
    assert stored(tmp_path / "a").card.labels == NAMES
    assert metrics(tmp_path / "a")["head/top1"] > 0.6


def test_a_model_without_what_is_needed_is_refused(trained: Path, tmp_path: Path) -> None:
    config = settings("retrieval", "x", steps=1)
    with pytest.raises(ConfigurationError, match="is a classification model: mode retrieval"):
        run(context(tmp_path, start=trained), config)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
)
@pytest.mark.parametrize("frozen", [False, True])
def test_engines_reach_the_same_parameters(
    colours: str, two_towers: Path, tmp_path: Path, frozen: bool
) -> None:
    config = settings("head", colours, steps=3, head={"frozenTower": frozen})
    run(context(tmp_path / "torch", start=two_towers), config)
    sharded = config.model_copy(update={"engine": EngineKind.DEEPSPEED, "zero_stage": 3})
    run_gang(run_on_rank, 2, tmp_path / "deepspeed", sharded, two_towers)
    expected, got = stored(tmp_path / "torch").state, stored(tmp_path / "deepspeed").state
    assert expected.keys() == got.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], **CLOSE)
