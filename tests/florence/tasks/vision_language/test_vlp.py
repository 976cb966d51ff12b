"""The kind vlp in real processes, and its negatives and masks as functions of seed and sample."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import florence
from florence.config import EngineKind, Evaluate
from florence.data.hashing import uniforms
from florence.data.mixture import MixedOrder
from florence.distributed.world import World
from florence.errors import ConfigurationError, DataError, SettingError, StoppedError
from florence.evaluation.retrieval import recall_of_scores
from florence.evaluation.runner import evaluate_model
from florence.models.opening import open_stored
from florence.stages.context import Stop
from florence.tasks.vision_language.texts import coded_texts
from florence.tasks.vlp.data import CaptionedBatch, negatives_of
from florence.tasks.vlp.evaluate import foreign_captions
from florence.tasks.vlp.model import image_rows, pretraining_model_of
from florence.tasks.vlp.task import PretrainingObjective, VlpTask
from florence.text.coding import ClipCoder
from florence.text.masking import IGNORED, masked_text
from tests.florence.tasks.vision_language.running import (
    COLOURS,
    EVEN,
    captions,
    context,
    picture,
    run,
    run_on_rank,
    settings,
    shards_of_captions,
)
from tests.gang import run_gang

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def vlp(data: str, **changes: Any) -> Any:
    return settings("vlp", data, **{"negativeGroup": 4, **changes})


def metrics(folder: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((folder / "metrics.json").read_text())["metrics"]
    return found


def batches(config: Any, folder: Path, steps: int, rank: int = 0, size: int = 1) -> list[Any]:
    stream = VlpTask(config, context(folder), None).stream()
    with stream.batches(rank=rank, size=size, start=0, stop=steps) as found:
        return list(found)


@pytest.fixture(scope="module")
def trained(captioned: str, two_towers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    config = vlp(
        captioned,
        steps=200,
        optimizer={"lr": 1e-3, "warmupSteps": 10},
        batchSize=12,
        captionsPerImage=1,
        maskFraction=0.3,
        validation=captioned,
        checkpoints={"everySteps": 500},
    )
    run("vlp", context(folder, start=two_towers), config)
    return folder


def test_it_learns_to_match_and_is_measured(trained: Path) -> None:
    found = metrics(trained)
    assert found["vlp/accuracy"] > 0.9
    assert found["vlp/accuracy"] == pytest.approx((found["vlp/own"] + found["vlp/foreign"]) / 2)
    card = open_stored(str(trained)).card
    assert card.task == "vlp"
    assert card.head is not None
    assert card.head["text"] == {"encoder": "florence"}


def test_a_prediction_is_the_softmax_by_hand(trained: Path) -> None:
    model = florence.load(str(trained), device="cpu")
    image = picture("green", 3)
    rows = [{"image": image, "text": text} for text in ("a green picture", "a red picture")]
    answers = model.predictor.predict(rows, {})
    assert [each["label"] for each in answers] == ["match", "no match"]
    assert sum(answers[0]["probabilities"].values()) == pytest.approx(1)
    with pytest.raises(ValueError, match="row 1: text must be a text"):
        model.predictor.predict([rows[0], {"image": image}], {})


def test_half_of_each_group_are_negatives_and_never_their_own_or_of_one_caption(
    captioned: str, tmp_path: Path
) -> None:
    """The same caption stands at four images of the twelve."""
    config = vlp(captioned, steps=6, batchSize=12, captionsPerImage=1)
    for batch in batches(config, tmp_path, 6):
        assert (batch.is_negative.view(-1, 4).sum(dim=1) == 2).all()
        rows = image_rows(batch.is_negative, batch.eligible, batch.chances, None).tolist()
        texts = batch.input_ids.tolist()
        for row, chosen in enumerate(rows):
            assert row // 4 == chosen // 4
            if chosen != row:
                assert batch.is_negative[row]
                assert texts[row] != texts[chosen]
                assert not torch.equal(batch.images[row], batch.images[chosen])
            elif batch.is_negative[row]:  # nothing in the group has another caption
                assert not batch.eligible[row].any()


def test_a_draw_is_uniform_or_follows_the_similarity() -> None:
    count = 4000
    eligible = torch.tensor([[False, True, True, False, True]]).repeat(count, 1)
    chances = torch.from_numpy(np.fromiter(uniforms(3), np.float64, count).astype(np.float32))
    negative = torch.ones(count, dtype=torch.bool)
    padded = torch.cat([negative, negative[: -count % 5]])
    assert len(padded) == count
    rows = image_rows(negative, eligible, chances, None) % 5
    parts = torch.bincount(rows, minlength=5) / count
    torch.testing.assert_close(parts, torch.tensor([0, 1, 1, 0, 1]) / 3, atol=0.03, rtol=0)
    similar = torch.tensor([[9.0, 0.0, 1.0, 9.0, 2.0]]).repeat(count, 1)
    rows = image_rows(negative, eligible, chances, similar) % 5
    expected = similar[0].exp() * eligible[0]
    parts = torch.bincount(rows, minlength=5) / count
    torch.testing.assert_close(parts, expected / expected.sum(), atol=0.03, rtol=0)
    alone = image_rows(negative[:5], torch.zeros(5, 5, dtype=torch.bool), chances[:5], None)
    assert alone.tolist() == list(range(5))


def test_the_half_is_by_number_and_not_by_place() -> None:
    numbers = [5, 1, 2, 9, 3, 3, 3, 2**63 + 1]
    assert negatives_of(numbers, 4).tolist() == [False, True, True, False, True, True, False, False]


@pytest.mark.parametrize("whole", [False, True])
def test_fifteen_percent_are_hidden_as_bert_does(whole: bool) -> None:
    coder, draw = ClipCoder(), uniforms(1)
    text = "photographers photographing unphotographable antediluvian archaeopteryxes again"
    hidden = masks = kept = total = 0
    for _ in range(3000):
        made = masked_text(coder, text, 40, fraction=0.15, whole_words=whole, draw=draw)
        assert len(made.ids) == len(made.masked) == len(made.targets)
        assert made.ids[0] == made.masked[0] == coder.start
        assert made.masked[-1] == coder.end
        for token, masked, target in zip(made.ids, made.masked, made.targets, strict=True):
            if target == IGNORED:
                assert masked == token
                continue
            assert target == token
            hidden += 1
            masks += masked == coder.mask
            kept += masked == token
        total += len(made.ids) - 2
        if whole:
            flags = iter([target != IGNORED for target in made.targets[1:-1]])
            for word in coder.words(text):
                assert len({next(flags) for _ in word}) == 1
    assert hidden / total == pytest.approx(0.15, abs=0.01)
    assert masks / hidden == pytest.approx(0.8, abs=0.02)
    assert kept / hidden == pytest.approx(0.1, abs=0.02)


def test_masks_and_negatives_do_not_depend_on_ranks(captioned: str, tmp_path: Path) -> None:
    config = vlp(captioned, steps=4)
    whole = batches(config, tmp_path, 4)
    halves = [batches(config, tmp_path, 4, rank, 2) for rank in (0, 1)]
    for step, batch in enumerate(whole):
        parts = [half[step] for half in halves]
        assert batch.keys == parts[0].keys + parts[1].keys
        for name in ("is_negative", "eligible", "chances"):
            joined = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(getattr(batch, name), joined)
        hidden = [int((part.targets != IGNORED).sum()) for part in parts]
        assert int((batch.targets != IGNORED).sum()) == sum(hidden)


def test_the_loss_is_the_sum_of_two_plain_means() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.full((4, 3), IGNORED)
    targets[0, 1], targets[2, 0], targets[2, 2] = 5, 1, 6
    fields = {name: torch.zeros(4) for name in ("is_negative", "eligible", "chances", "lengths")}
    batch = CaptionedBatch(
        keys=tuple("abcd"),
        images=torch.zeros(4),
        input_ids=targets,
        masked_ids=targets,
        targets=targets,
        **fields,
    )
    matching, own = torch.randn(4, 2, generator=generator), torch.tensor([1, 0, 0, 1])
    words = torch.randn(3, 7, generator=generator)
    objective = PretrainingObjective()
    prepared = objective.prepare(batch)
    loss = objective.loss((matching, own, words), batch, prepared)
    expected = F.cross_entropy(matching, own) + F.cross_entropy(words, torch.tensor([5, 1, 6]))
    torch.testing.assert_close(loss.value, expected)
    first, second = batch.chunk(2)
    parts = [
        objective.loss((matching[:2], own[:2], words[:1]), first, prepared).value,
        objective.loss((matching[2:], own[2:], words[1:]), second, prepared).value,
    ]
    torch.testing.assert_close(parts[0] + parts[1], expected)


@pytest.mark.slow
@pytest.mark.parametrize(("negatives", "ranks", "chunks"), [("random", 2, 2), ("hard", 4, 1)])
def test_ranks_and_chunks_do_not_matter(
    captioned: str, two_towers: Path, tmp_path: Path, negatives: str, ranks: int, chunks: int
) -> None:
    config = vlp(captioned, steps=2, batchSize=16, negatives=negatives, optimizer=EVEN)
    run("vlp", context(tmp_path / "one", start=two_towers), config)
    chunked = config.model_copy(update={"gradient_cache_chunks": chunks})
    run_gang(run_on_rank, ranks, "vlp", tmp_path / "many", chunked, two_towers)
    expected = open_stored(str(tmp_path / "one")).state
    got = open_stored(str(tmp_path / "many")).state
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], **CLOSE)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="deepspeed is not installed")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_both_engines_reach_the_same(
    captioned: str, two_towers: Path, tmp_path: Path, stage: int
) -> None:
    config = vlp(captioned, steps=2, negatives="hard", optimizer=EVEN)
    run("vlp", context(tmp_path / "torch", start=two_towers), config)
    other = config.model_copy(update={"engine": EngineKind.DEEPSPEED, "zero_stage": stage})
    run_gang(run_on_rank, 2, "vlp", tmp_path / "deepspeed", other, two_towers)
    expected = open_stored(str(tmp_path / "torch")).state
    got = open_stored(str(tmp_path / "deepspeed")).state
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], **CLOSE)


def test_a_resumed_run_ends_with_the_same_bits(captioned: str, tmp_path: Path) -> None:
    more = shards_of_captions(tmp_path / "more", 5, start=40)
    config = vlp(captioned, steps=5, dropout=0.2, furtherData=[{"data": more, "weight": 0.5}])
    run("vlp", context(tmp_path / "whole"), config)
    stop = Stop()

    def report(progress: object) -> None:
        if progress.phase == "train" and progress.step == 3:  # type: ignore[attr-defined]
            stop.request()

    with pytest.raises(StoppedError, match="after step 3"):
        run("vlp", context(tmp_path / "cut", report=report, stop=stop), config)
    run("vlp", context(tmp_path / "cut", attempt=2), config)
    expected = open_stored(str(tmp_path / "whole")).state
    resumed = open_stored(str(tmp_path / "cut")).state
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_a_mixture_sees_every_sample_as_often_as_its_weight_says() -> None:
    order = MixedOrder([10, 4, 7], [10, 2, 14], seed=5, window=8)
    seen = order.samples(0, 26 * 4)
    counts = np.bincount(seen, minlength=21)
    assert counts[:10].tolist() == [4] * 10
    assert counts[10:14].tolist() == [2] * 4
    assert counts[14:].tolist() == [8] * 7
    parts = [order.samples(start, start + 13) for start in range(0, 104, 13)]
    assert np.array_equal(np.concatenate(parts), seen)
    assert not np.array_equal(seen, MixedOrder([10, 4, 7], [10, 2, 14], 6, 8).samples(0, 104))
    assert 0 <= order.spare(17, 1) < 21


def test_vqa_starts_from_it_and_keeps_what_it_can(
    trained: Path, questions: str, tmp_path: Path
) -> None:
    config = settings(
        "vqa", questions, steps=1, leastAnswers=2, optimizer={"lr": 1e-12}, fusion=None
    )
    run("vqa", context(tmp_path, start=trained), config)
    before, after = open_stored(str(trained)).state, open_stored(str(tmp_path)).state
    for name, value in before.items():
        if not name.startswith("head."):
            torch.testing.assert_close(after[name], value, atol=1e-6, rtol=0)


def test_matching_by_hand(trained: Path, captioned: str) -> None:
    model = pretraining_model_of(open_stored(str(trained)), torch.device("cpu"))
    ids, lengths = coded_texts(["a red picture", "", "x " * 4000], model.shape, torch.device("cpu"))
    assert lengths.tolist() == [5, 2, 16]
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = model.match(images, ids, lengths)
        for row in range(3):
            length = int(lengths[row])
            one = slice(row, row + 1)
            alone = model.match(images[one], ids[one, :length], lengths[one])
            torch.testing.assert_close(alone, together[one], atol=1e-5, rtol=0)


def test_foreign_captions_are_none_of_the_images_own() -> None:
    groups = [captions(list(COLOURS)[number % 3], number) for number in range(6)]
    found = foreign_captions(groups, "here")
    assert all(text not in group for text, group in zip(found, groups, strict=True))
    with pytest.raises(DataError, match="here: all captions are the same"):
        foreign_captions([["a"], ["A "]], "here")


def test_bad_settings_are_told_in_a_line(captioned: str, questions: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="negativeGroup must be even"):
        vlp(captioned, steps=1, negativeGroup=3)
    with pytest.raises(ValueError, match="does not divide into groups"):
        vlp(captioned, steps=1, batchSize=6)
    with pytest.raises(ValueError, match="needs textEncoder florence"):
        vlp(captioned, steps=1, negatives="hard", textEncoder=None)
    config = vlp(captioned, steps=1, batchSize=8)
    assert config.most_processes(8) == 2
    with pytest.raises(SettingError, match="negativeGroup=4 does not divide the 2 samples"):
        config.check_processes(4)
    trained_on_questions = vlp(questions, steps=1)
    with pytest.raises(DataError, match="no image has a text"):
        run("vlp", context(tmp_path), trained_on_questions)
    with pytest.raises(ConfigurationError, match="roberta"):
        run("vlp", context(tmp_path / "b"), vlp(captioned, steps=1, textEncoder=None))


def test_reranking_puts_the_towers_best_in_the_heads_order(trained: Path, captioned: str) -> None:
    stored = open_stored(str(trained))
    model = pretraining_model_of(stored, torch.device("cpu"))
    lists = [
        {"name": name, "data": captioned, "captionsPerImage": 1, "label": label, "rerank": rerank}
        for name, label, rerank in (
            ("towers", "text", 0),
            ("all", "text", 12),
            ("one", "text", 1),
            ("own", "image", 12),
        )
    ]
    evaluation = Evaluate.model_validate({"retrieval": lists, "batchSize": 5, "workers": 0})
    found = evaluate_model(model, stored.card, evaluation, world=World()).metrics
    # The best candidate alone cannot change places; all of them are in the head's order, which
    # knows the colours.
    for direction in ("imageToText", "textToImage"):
        assert found[f"one/{direction}/R@1"] == found[f"towers/{direction}/R@1"]
        assert found[f"all/{direction}/R@1"] > 0.9
        assert found[f"own/{direction}/R@1"] <= found[f"all/{direction}/R@1"]


def test_scores_of_both_directions_count_apart() -> None:
    of_texts = torch.tensor([[3.0, 1.0], [2.0, 1.0], [0.0, 1.0]])
    of_images = torch.tensor([[0.0, 5.0, 1.0], [0.0, 1.0, 2.0]])
    owners = torch.tensor([0, 1, 1])
    found = recall_of_scores(of_texts, of_images, None, owners, ks=(1,))
    assert found.text_ranks.tolist() == [0, 1, 0]
    assert found.image_ranks.tolist() == [2, 0]
    shared = recall_of_scores(of_texts, of_images, ["a", "a", "b"], owners, ks=(1,))
    assert shared.text_ranks.tolist() == [0, 0, 0]
    assert shared.image_ranks.tolist() == [0, 0]
