"""Self-critical training: rewards, the gradient's formula, and captions that become better."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from florence.config import Architecture, EngineKind
from florence.kinds import KINDS
from florence.models.fusion import FusionSizes
from florence.models.generation import sample_by
from florence.models.opening import open_stored
from florence.models.vision_language import BuildOptions, VisionLanguageShape, built
from florence.stages.train import train
from florence.tasks.caption.model import texts_of
from florence.tasks.caption.references import ReferencedBatch, ended
from florence.tasks.caption.self_critical import (
    SelfCriticalModel,
    SelfCriticalObjective,
    lengths_of,
)
from florence.text.caption_metrics import CiderWeights
from florence.text.coding import ClipCoder
from tests.florence.running import Recording
from tests.florence.tasks.vision_language.running import (
    EVEN,
    MODEL,
    context,
    run,
    run_on_rank,
    settings,
)
from tests.gang import run_gang

CODER = ClipCoder()


@pytest.fixture(scope="module")
def model() -> SelfCriticalModel:
    architecture: Architecture = MODEL.architecture()
    shape = VisionLanguageShape(
        roberta=None,
        coder=CODER,
        fusion=FusionSizes(layers=2, width=32, heads=2, hidden=48),
        text_length=9,
    )
    options = BuildOptions(window=architecture.image.window, dropout=0.0, drop_path=0.0)
    return built(lambda: SelfCriticalModel(architecture, shape, options), seed=3, init=True)


def test_what_is_drawn_is_as_probable_as_training_says(model: SelfCriticalModel) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 3, 16, 16, generator=generator)
    chances = torch.rand(3, 4, 8, generator=generator).double()
    logs, tokens = model(images, chances)
    assert model.training
    model.eval()
    try:
        written = sample_by(model, model.start(images), model.writing(), chances.flatten(0, 1))
    finally:
        model.train()
    assert torch.equal(tokens.flatten(0, 1), written.tokens)
    torch.testing.assert_close(logs.flatten(), written.scores, atol=2e-4, rtol=1e-4)
    alone, own = model(images[1:2], chances[1:2])
    torch.testing.assert_close(alone[0], logs[1], atol=2e-4, rtol=1e-4)
    assert torch.equal(own[0], tokens[1][:, : own.shape[2]])


def test_a_text_is_as_long_as_to_its_end() -> None:
    tokens = torch.tensor([[5, 9, 0, 0], [9, 0, 0, 0], [5, 6, 7, 8], [5, 6, 7, 9]])
    assert lengths_of(tokens, 9).tolist() == [2, 1, 4, 4]


def coded(text: str, length: int, *, end: bool) -> list[int]:
    ids = [*(i for word in CODER.words(text) for i in word), *([CODER.end] if end else [])]
    return ids + [CODER.padding] * (length - len(ids))


def test_the_loss_is_minus_the_advantage_times_the_log_probability() -> None:
    references = (("a red picture", "all red"), ("a blue picture", "it is blue"))
    weights = CiderWeights([[ended(text) for text in group] for group in references])
    said = [["a red picture", "a red", "blue"], ["a blue picture", "a red picture", "it is blue"]]
    ends = [[True, False, True], [True, True, True]]
    tokens = torch.tensor(
        [
            [coded(text, 6, end=is_end) for text, is_end in zip(group, flags, strict=True)]
            for group, flags in zip(said, ends, strict=True)
        ]
    )
    batch = ReferencedBatch(
        keys=("a", "b"),
        images=torch.zeros(2),
        chances=torch.zeros(2, 3, 6).double(),
        references=references,
    )
    objective = SelfCriticalObjective(lambda ids: texts_of(CODER, ids), CODER.end, weights)
    logs = torch.randn(2, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    loss = objective.loss((logs, tokens), batch, objective.prepare(batch))
    expected, total = torch.zeros(()), 0.0
    for i, group in enumerate(said):
        known = [ended(text) for text in references[i]]
        rewards = []
        for text, is_end in zip(group, ends[i], strict=True):
            words = ended(text) if is_end else ended(text)[:-1]
            rewards.append(weights.score(words, known))
        total += sum(rewards)
        for j, reward in enumerate(rewards):
            others = [rewards[k] for k in range(3) if k != j]
            expected = expected - (reward - sum(others) / 2) * logs[i, j] / 6
    torch.testing.assert_close(loss.value, expected)
    assert float(loss.metrics["reward"]) == pytest.approx(total / 6)
    parts = [
        objective.loss((logs[i : i + 1], tokens[i : i + 1]), part, 2).value
        for i, part in enumerate(batch.chunk(2))
    ]
    torch.testing.assert_close(parts[0] + parts[1], expected)
    assert weights.score(ended("a red"), [ended("a red picture")]) < weights.score(
        ended("a red picture"), [ended("a red picture")]
    )


@pytest.mark.slow
def test_captions_become_better_than_words_alone_made_them(
    captioned: str, two_towers: Path, tmp_path: Path
) -> None:
    """Two captions an image leave it open which is written; the reward favours what fits both."""
    first = settings("caption", captioned, steps=60, labelSmoothing=0, validation=captioned)
    run("caption", context(tmp_path / "words", start=two_towers), first)
    changes: dict[str, Any] = {"optimizer": {"lr": 5e-4, "warmupSteps": 1}, "steps": 30}
    second = settings(
        "caption", captioned, selfCritical={"samples": 4}, fusion=None, textEncoder=None, **changes
    )
    around = context(tmp_path / "whole", start=tmp_path / "words")
    train(around, second, KINDS["caption"])
    logged = around.recorder
    assert isinstance(logged, Recording)
    rewards = [v["reward"] for _, v in sorted(logged.values.items()) if "reward" in v]
    early, late = rewards[:6], rewards[-6:]
    assert sum(late) > sum(early)
    assert open_stored(str(tmp_path / "whole")).card.task == "caption"
    chunked = second.model_copy(update={"gradient_cache_chunks": 2, "steps": 2})
    plain = second.model_copy(update={"steps": 2})
    states = []
    for name, config in (("plain", plain), ("chunked", chunked)):
        train(context(tmp_path / name, start=tmp_path / "words"), config, KINDS["caption"])
        states.append(open_stored(str(tmp_path / name)).state)
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    [
        EngineKind.TORCH,
        pytest.param(
            EngineKind.DEEPSPEED,
            marks=pytest.mark.skipif(
                not importlib.util.find_spec("deepspeed"), reason="deepspeed is not installed"
            ),
        ),
    ],
)
def test_ranks_and_engines_reach_the_same(
    captioned: str, two_towers: Path, tmp_path: Path, engine: EngineKind
) -> None:
    """What is drawn for a caption depends on seed and position, wherever it is drawn."""
    words = settings("caption", captioned, steps=2)
    run("caption", context(tmp_path / "words", start=two_towers), words)
    config = settings("caption", captioned, steps=2, optimizer=EVEN, selfCritical={"samples": 3})
    run("caption", context(tmp_path / "one", start=tmp_path / "words"), config)
    other = config.model_copy(update={"engine": engine, "zero_stage": 2})
    run_gang(run_on_rank, 2, "caption", tmp_path / "two", other, tmp_path / "words")
    expected = open_stored(str(tmp_path / "one")).state
    got = open_stored(str(tmp_path / "two")).state
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-4, atol=1e-5)


def test_it_starts_from_captions_and_leaves_parameters_whole(captioned: str) -> None:
    starts = KINDS["caption"].starts_from
    assert starts(settings("caption", captioned, steps=1, selfCritical={})) == ("caption",)
    assert "vlp" in starts(settings("caption", captioned, steps=1))
    with pytest.raises(ValueError, match="zeroStage 3 does not allow: use at most 2"):
        settings("caption", captioned, steps=1, selfCritical={}, zeroStage=3)
