"""Both modes of a video stage, from shards to a model that predicts."""

from __future__ import annotations

import json
import multiprocessing
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from florence.config import Evaluate
from florence.data.shards import Need, ShardSet
from florence.errors import DataError, StoppedError
from florence.kinds import KINDS
from florence.loading import load, predictor_of
from florence.models.inflation import inflate
from florence.models.stored import take
from florence.models.video_coswin import VideoCoSwin
from florence.models.video_models import video_of
from florence.stages.context import Stop
from florence.stages.evaluate import evaluate
from florence.storage import open_storage
from tests.florence.data.making import write_samples
from tests.florence.running import EVEN
from tests.florence.tasks.video.running import (
    WAYS,
    clip_shards,
    context,
    metrics,
    moving,
    run,
    run_on_rank,
    settings,
    stored,
)
from tests.gang import run_gang


def same(a: Path, b: Path, tolerance: float = 0.0) -> None:
    left, right = stored(a).state, stored(b).state
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(right[name], value, rtol=0, atol=tolerance, msg=name)


def test_actions_learn_to_name_motion(
    tmp_path: Path, clips: str, held_out: str, two_towers: Path
) -> None:
    """What a single frame cannot show; and everything that the stage leaves."""
    config = settings("actions", clips, steps=60, validation=held_out)
    run(context(tmp_path, start=two_towers), config)
    found = metrics(tmp_path)
    assert found["actions/top1"] >= 0.75
    assert found["actions/top5"] == 1
    assert {"actions/meanPerClass", "classes", "steps"} <= found.keys()
    pictures = {path.name for path in (tmp_path / "pictures").rglob("*.png")}
    assert pictures == {"confusion.png", "clips.png"}
    card = stored(tmp_path).card
    assert card.task == "actionRecognition"
    assert card.labels == tuple(WAYS)
    assert card.head is not None
    assert str(card.head["decoder"]).startswith("PyAV")
    model = load(tmp_path)
    rows = [{"video": ShardSet.open(held_out, need=Need.VIDEO).read(i).media_bytes} for i in (0, 1)]
    answers = model.predictor.predict(rows, {"top": 2, "every": 0.5})
    assert [len(answer["probabilities"]) for answer in answers] == [2, 2]
    assert [part["start"] for part in answers[0]["timeline"]] == [0.0, 0.5]
    with pytest.raises(ValueError, match=r"row 0: video: broken video"):
        model.predictor.predict([{"video": b"no"}], {})


def test_retrieval_finds_clips_by_texts(
    tmp_path: Path, clips: str, held_out: str, two_towers: Path
) -> None:
    config = settings(
        "retrieval",
        clips,
        steps=200,
        batchSize=16,
        validation=held_out,
        captions={"label": "text", "captionsPerClip": 1},
    )
    run(context(tmp_path, start=two_towers), config)
    found = metrics(tmp_path)
    ways = ("textToVideo", "videoToText")
    names = {f"video-retrieval/{way}/{m}" for way in ways for m in ("R@1", "R@5", "R@10")}
    names |= {f"video-retrieval/{way}/{m}" for way in ways for m in ("medianRank", "meanRank")}
    assert names <= found.keys()
    model = load(tmp_path)
    assert model.card.task == "videoText"
    shards = ShardSet.open(held_out, need=Need.VIDEO)
    rows = [{"video": shards.read(i).media_bytes} for i in range(8)]
    asked = {"labels": list(WAYS), "templates": ["a square moves {}"]}
    answers = model.predictor.predict(rows, asked)
    right = sum(answer["label"] == tuple(WAYS)[i % 4] for i, answer in enumerate(answers))
    assert right >= 5
    embedded = model.predictor.embed_videos([row["video"] for row in rows])
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(8))
    again = Evaluate.model_validate(
        {
            "batchSize": 8,
            "workers": 0,
            "videoRetrieval": [
                {
                    "name": "test",
                    "data": held_out,
                    "pooling": "clip",
                    "label": "text",
                    "dualSoftmax": True,
                }
            ],
        }
    )
    out = tmp_path / "evaluated"
    evaluate(context(out, start=tmp_path), again, KINDS["evaluate"])
    assert metrics(out)["test/textToVideo/R@1"] >= 0.5


@pytest.mark.parametrize("mode", ["actions", "retrieval"])
def test_starts_from_the_inflated_tower(
    tmp_path: Path, clips: str, two_towers: Path, mode: str
) -> None:
    """With a rate of nothing the stage's tower is the inflated one; without inflation it is not."""
    config = settings(mode, clips, steps=1, optimizer={"lr": 1e-12, "warmupSteps": 0})
    run(context(tmp_path / "yes", start=two_towers), config)
    model = stored(tmp_path / "yes")
    shape = video_of(model.card)
    assert shape is not None
    tower = VideoCoSwin(model.card.architecture.image, shape, 16)
    expected = inflate(take(stored(two_towers).state, "image"), tower).state
    for name, value in expected.items():
        torch.testing.assert_close(model.state[f"image.{name}"], value, rtol=0, atol=1e-8)
    run(
        context(tmp_path / "no", start=two_towers),
        config.model_copy(update={"inflate": False}),
    )
    fresh = stored(tmp_path / "no").state["image.norm.weight"]
    kernel = stored(tmp_path / "no").state["image.patch_embed.proj.weight"]
    assert fresh.allclose(torch.ones_like(fresh))
    assert not kernel.allclose(expected["patch_embed.proj.weight"])


@pytest.mark.parametrize("mode", ["actions", "retrieval"])
def test_a_resume_changes_nothing(tmp_path: Path, clips: str, two_towers: Path, mode: str) -> None:
    config = settings(mode, clips, steps=4, dropPath=0.2)
    run(context(tmp_path / "whole", start=two_towers), config)
    stop = Stop()

    def at_two(progress: object) -> None:
        if getattr(progress, "step", 0) >= 2:
            stop.request()

    with pytest.raises(StoppedError):
        run(context(tmp_path / "cut", start=two_towers, stop=stop, report=at_two), config)
    run(context(tmp_path / "cut", start=two_towers, attempt=2), config)
    same(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["actions", "retrieval"])
@pytest.mark.parametrize(("engine", "size"), [("torch", 2), ("deepspeed", 2), ("torch", 4)])
def test_ranks_and_engines_agree(
    tmp_path: Path, clips: str, two_towers: Path, mode: str, engine: str, size: int
) -> None:
    changes: dict[str, Any] = (
        {"head": {"randAugment": {"operations": 0}, "dropout": 0.0}} if mode == "actions" else {}
    )
    changes["optimizer"] = EVEN
    config = settings(mode, clips, steps=2, **changes)
    run(context(tmp_path / "one", start=two_towers), config)
    config = settings(mode, clips, steps=2, engine=engine, **changes)
    run_gang(run_on_rank, size, tmp_path / "many", config, two_towers)
    same(tmp_path / "one", tmp_path / "many", 2e-5)


def test_models_of_images_retrieve_and_name_videos(
    tmp_path: Path, held_out: str, two_towers: Path
) -> None:
    """Zero-shot: the mean of frames, and one pass of the inflated tower; of a still the same."""
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text(json.dumps({"classes": list(WAYS), "templates": ["moving {}"]}))
    one = {"data": held_out, "pooling": "clip", "frames": 4}
    config = Evaluate.model_validate(
        {
            "batchSize": 8,
            "workers": 0,
            "videoRetrieval": [{"name": "frames", "data": held_out}, {"name": "clip", **one}],
            "zeroShotActions": [{"name": "actions", "prompts": str(prompts), **one}],
        }
    )
    evaluate(context(tmp_path / "out", start=two_towers), config, KINDS["evaluate"])
    found = metrics(tmp_path / "out")
    assert 0 <= found["frames/textToVideo/R@1"] <= 1
    assert found["clip/textToVideo/medianRank"] >= 1
    assert 0 <= found["actions/top1"] <= 1


def test_broken_clips_are_replaced_and_counted(tmp_path: Path, two_towers: Path) -> None:
    folder = tmp_path / "data"
    clip_shards(folder, 4)
    bad = [(f"bad{i}", {"mp4": b"no video", "cls": b"0"}) for i in range(2)]
    write_samples(folder / "shard-000001.tar", bad)
    config = settings("actions", str(folder), steps=4, loader={"workers": 0, "maxBadFraction": 0.5})
    around = context(tmp_path / "out", start=two_towers)
    run(around, config)
    config = settings("actions", str(folder), steps=4, loader={"workers": 0})
    with pytest.raises(DataError, match=r"shard-000001.tar"):
        run(context(tmp_path / "strict", start=two_towers), config)


def test_leaves_no_process_and_no_thread(tmp_path: Path, clips: str, two_towers: Path) -> None:
    # Other tests' processes are none of this one's business.
    threads, before = threading.active_count(), set(multiprocessing.active_children())
    config = settings("actions", clips, steps=2, loader={"workers": 2}, validation=clips)
    run(context(tmp_path, start=two_towers), config)
    assert set(multiprocessing.active_children()) <= before
    assert threading.active_count() <= threads


def test_the_views_average_probabilities(tmp_path: Path, clips: str, two_towers: Path) -> None:
    """K6, against one view at a time."""
    from florence.config.video import Views
    from florence.data.transforms import normalise
    from florence.data.video.pixels import view_clips
    from florence.distributed.world import World
    from florence.evaluation.action_recognition import mean_of_softmax
    from florence.evaluation.runner import evaluate_model
    from florence.models.video_models import sampling_of

    run(context(tmp_path, start=two_towers), settings("actions", clips, steps=2))
    model = stored(tmp_path)
    predictor = predictor_of(model, torch.device("cpu"))
    shards = ShardSet.open(clips, need=Need.VIDEO)
    views, right = Views(spans=2, crops=3), 0
    for i in range(len(shards)):
        sample = shards.read(i)
        pixels = view_clips(sample.media_bytes, 32, sampling_of(model.card), views)
        chances = []
        with torch.no_grad():
            for view in pixels:
                clip = normalise(torch.from_numpy(view), model.card.mean, model.card.std)
                chances.append(predictor.module(clip.transpose(0, 1)[None]).softmax(dim=1))
        mean = torch.cat(chances).mean(dim=0)
        logits = torch.cat(chances).log()
        torch.testing.assert_close(mean_of_softmax(logits), mean)
        right += int(mean.argmax()) == sample.class_index
    config = Evaluate.model_validate(
        {
            "workers": 0,
            "actionRecognition": [{"name": "a", "data": clips, "views": {"spans": 2, "crops": 3}}],
        }
    )
    report = evaluate_model(predictor.module, model.card, config, world=World())
    assert report.metrics["a/top1"] == pytest.approx(right / len(shards))


def test_mixtures_share_labels_and_pixels() -> None:
    from florence.data.clips import cut, own_weights

    generator = np.random.default_rng(0)
    for number in range(50):
        share, box = cut(float(generator.random()), 32, number)
        weights = own_weights(torch.tensor([share]), torch.tensor([box]), 32)
        assert float(weights.mean()) == pytest.approx(share, abs=1e-6)
    blended = own_weights(torch.tensor([0.3]), torch.zeros(1, 4, dtype=torch.int64), 32)
    assert torch.equal(blended, torch.full((1, 1, 1, 32, 32), 0.3))


def test_says_which_clip_has_no_class(tmp_path: Path, two_towers: Path) -> None:
    from florence.data.video.writing import write_clip

    clip = write_clip(moving("up", 1), rate=8)
    write_samples(tmp_path / "data" / "a.tar", [("one", {"mp4": clip, "txt": b"up"})])
    assert open_storage(str(tmp_path / "data"))
    with pytest.raises(DataError, match=r"clip a/one has no class"):
        run(context(tmp_path / "out"), settings("actions", str(tmp_path / "data"), steps=1))
