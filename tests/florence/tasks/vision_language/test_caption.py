"""The kind caption in real processes: it learns, writes the same with and without a cache."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import florence
from florence.config import EngineKind
from florence.errors import StoppedError
from florence.models.bert import mask_of
from florence.models.generation import beam_search
from florence.models.opening import open_stored
from florence.stages.context import Stop
from florence.tasks.caption.data import DescribedBatch
from florence.tasks.caption.model import CaptionModel, caption_model_of
from florence.tasks.caption.predict import write_captions
from florence.tasks.caption.task import CaptionObjective
from florence.text.caption_metrics import caption_metrics
from tests.florence.tasks.vision_language.running import (
    EVEN,
    captions,
    context,
    picture,
    run,
    run_on_rank,
    settings,
)
from tests.gang import run_gang

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def metrics(folder: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((folder / "metrics.json").read_text())["metrics"]
    return found


@pytest.fixture(scope="module")
def trained(captioned: str, two_towers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    config = settings(
        "caption",
        captioned,
        steps=150,
        captionsPerImage=1,
        labelSmoothing=0,
        validation=captioned,
        checkpoints={"everySteps": 200},
    )
    run("caption", context(folder, start=two_towers), config)
    return folder


@pytest.fixture(scope="module")
def model(trained: Path) -> CaptionModel:
    return caption_model_of(open_stored(str(trained)), torch.device("cpu"))


def test_it_learns_and_is_measured(trained: Path) -> None:
    given = json.loads((trained / "results/caption/caption-captions.json").read_text())
    written = [each["caption"] for each in given]
    colours = ["red", "green", "blue"] * 4
    assert written == [f"a {colour} picture" for colour in colours]
    known = [captions(colour, number) for number, colour in enumerate(colours)]
    expected = caption_metrics(written, known)
    found = {name: metrics(trained)[f"caption/{name}"] for name in expected}
    assert found == pytest.approx(expected)


def test_predictions_are_captions_or_samples(trained: Path) -> None:
    loaded = florence.load(str(trained), device="cpu")
    images = [picture("green", 5), picture("red", 6)]
    best = loaded.predict(images)
    assert [each["caption"] for each in best] == ["a green picture", "a red picture"]
    assert loaded.predict(images, beams=1)[0]["caption"] == "a green picture"
    drawn = loaded.predict(images, sample=3, seed=4, temperature=5.0)
    assert [len(each["captions"]) for each in drawn] == [3, 3]
    assert drawn == loaded.predict(images, sample=3, seed=4, temperature=5.0)
    assert drawn[1:] == loaded.predict(images[1:], sample=3, seed=4, temperature=5.0)
    with pytest.raises(ValueError, match="beams must be a whole number of at least 1"):
        loaded.predict(images, beams=0)
    with pytest.raises(ValueError, match="temperature must be a number above 0"):
        loaded.predict(images, sample=1, temperature=0)


class Uncached:
    """Decodes by running the whole text anew for every token."""

    device = torch.device("cpu")

    def __init__(self, model: CaptionModel, images: torch.Tensor) -> None:
        self.model, self.images = model, images

    def step(self, tokens: torch.Tensor, position: int, state: Any) -> tuple[torch.Tensor, Any]:
        text, rows = state.text, state.rows
        text = torch.cat([text, tokens[:, None]], dim=1)
        lengths = torch.full((len(text),), text.shape[1])
        pixels = self.model.image_tokens(self.images)[rows]
        fused = self.model.fuse(pixels, text, lengths)
        return self.model.head(fused.text[:, -1]), Remembered(text, rows)


class Remembered:
    def __init__(self, text: torch.Tensor, rows: torch.Tensor) -> None:
        self.text, self.rows = text, rows

    def chosen(self, rows: torch.Tensor) -> Remembered:
        return Remembered(self.text[rows], self.rows[rows])


def test_cached_and_uncached_decoding_are_equal(model: CaptionModel) -> None:
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    cached = write_captions(model, images, beams=4)
    state = Remembered(torch.zeros(3, 0, dtype=torch.int64), torch.arange(3))
    uncached = beam_search(Uncached(model, images), state, 3, model.writing(beams=4))
    assert torch.equal(cached.tokens, uncached.tokens)
    torch.testing.assert_close(cached.scores, uncached.scores, atol=1e-5, rtol=0)


def test_a_caption_does_not_depend_on_the_other_images(model: CaptionModel) -> None:
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    together = model.texts(write_captions(model, images, beams=3).tokens)
    alone = [model.texts(write_captions(model, image[None], beams=3).tokens)[0] for image in images]
    assert together == alone


def test_no_later_word_is_seen(model: CaptionModel) -> None:
    images = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    ids = torch.tensor([[49406, 320, 736, 1674, 49407]])
    with torch.no_grad():
        first = model(images, ids, torch.tensor([5]))
        ids[0, 3] = 999
        other = model(images, ids, torch.tensor([5]))
    torch.testing.assert_close(first[:3], other[:3])
    assert not torch.allclose(first[3], other[3])


def test_the_loss_is_the_plain_formula() -> None:
    ids = torch.tensor([[6, 1, 2, 7], [6, 3, 7, 0]])
    batch = DescribedBatch(
        keys=("a", "b"), images=torch.zeros(2), input_ids=ids, lengths=torch.tensor([4, 3])
    )
    logits = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    objective = CaptionObjective(0.2)
    prepared = objective.prepare(batch)
    loss = objective.loss((logits,), batch, prepared)
    words = torch.tensor([1, 2, 7, 3, 7])
    expected = F.cross_entropy(logits, words, label_smoothing=0.2)
    torch.testing.assert_close(loss.value, expected)
    first, second = batch.chunk(2)
    parts = [
        objective.loss((logits[:3],), first, prepared).value,
        objective.loss((logits[3:],), second, prepared).value,
    ]
    torch.testing.assert_close(parts[0] + parts[1], expected)
    assert mask_of(batch.lengths - 1, 4).sum() == 5


@pytest.mark.slow
def test_ranks_and_chunks_do_not_matter(captioned: str, two_towers: Path, tmp_path: Path) -> None:
    config = settings("caption", captioned, steps=2, optimizer=EVEN)
    run("caption", context(tmp_path / "one", start=two_towers), config)
    chunked = config.model_copy(update={"gradient_cache_chunks": 2})
    run_gang(run_on_rank, 2, "caption", tmp_path / "two", chunked, two_towers)
    expected = open_stored(str(tmp_path / "one")).state
    got = open_stored(str(tmp_path / "two")).state
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], **CLOSE)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="deepspeed is not installed")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_both_engines_reach_the_same(
    captioned: str, two_towers: Path, tmp_path: Path, stage: int
) -> None:
    config = settings("caption", captioned, steps=2, optimizer=EVEN)
    run("caption", context(tmp_path / "torch", start=two_towers), config)
    other = config.model_copy(update={"engine": EngineKind.DEEPSPEED, "zero_stage": stage})
    run_gang(run_on_rank, 2, "caption", tmp_path / "deepspeed", other, two_towers)
    expected = open_stored(str(tmp_path / "torch")).state
    got = open_stored(str(tmp_path / "deepspeed")).state
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], **CLOSE)


def test_a_resumed_run_ends_with_the_same_bits(captioned: str, tmp_path: Path) -> None:
    config = settings("caption", captioned, steps=5, dropout=0.2)
    run("caption", context(tmp_path / "whole"), config)
    stop = Stop()

    def report(progress: object) -> None:
        if progress.phase == "train" and progress.step == 3:  # type: ignore[attr-defined]
            stop.request()

    with pytest.raises(StoppedError, match="after step 3"):
        run("caption", context(tmp_path / "cut", report=report, stop=stop), config)
    run("caption", context(tmp_path / "cut", attempt=2), config)
    expected = open_stored(str(tmp_path / "whole")).state
    resumed = open_stored(str(tmp_path / "cut")).state
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_it_starts_from_vlp_with_its_words(captioned: str, tmp_path: Path) -> None:
    run("vlp", context(tmp_path / "vlp"), settings("vlp", captioned, steps=1, negativeGroup=4))
    config = settings("caption", captioned, steps=1, fusion=None, optimizer={"lr": 1e-12})
    run("caption", context(tmp_path / "caption", start=tmp_path / "vlp"), config)
    before = open_stored(str(tmp_path / "vlp")).state
    after = open_stored(str(tmp_path / "caption")).state
    taken = {name: before[name.replace("head.", "head.mlm.")] for name in after}
    for name, value in taken.items():
        torch.testing.assert_close(after[name], value, atol=1e-6, rtol=0)
