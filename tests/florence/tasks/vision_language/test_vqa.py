"""The kind vqa in real processes: it learns, resumes exactly, and is the same on any ranks."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

import florence
from florence.config import ActivationCheckpointing, EngineKind
from florence.data.images import decode
from florence.data.transforms import eval_transform
from florence.distributed.parameter_rules import apply_rules, optimizer_groups
from florence.errors import ConfigurationError, DataError, StoppedError
from florence.models.opening import open_stored
from florence.models.vision_language import VisionLanguageShape
from florence.stages.context import Stop
from florence.tasks.vision_language.texts import coded_texts
from florence.tasks.vqa.data import QuestionBatch
from florence.tasks.vqa.model import question_model_of
from florence.tasks.vqa.task import QuestionObjective, VqaTask
from florence.text.answers import accuracy
from florencectl.main import app
from tests.florence.tasks.vision_language.running import (
    EVEN,
    ask,
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
def trained(questions: str, two_towers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    config = settings(
        "vqa",
        questions,
        steps=160,
        batchSize=12,
        leastAnswers=2,
        validation=questions,
        checkpoints={"everySteps": 200},
    )
    run("vqa", context(folder, start=two_towers), config)
    return folder


def test_it_overfits_and_is_measured_by_type(trained: Path) -> None:
    found = metrics(trained)
    assert found["vqa/accuracy"] > 0.95
    assert {"vqa/yesNo", "vqa/number", "vqa/other"} <= found.keys()
    assert found["answers"] == 8
    card = open_stored(str(trained)).card
    assert card.task == "vqa"
    assert set(card.labels) == {"red", "green", "blue", "yes", "no", "3", "4", "5"}
    assert card.labels[0] == "no"  # the most frequent one


def test_the_servers_file_has_every_answer(trained: Path) -> None:
    given = json.loads((trained / "results/vqa/vqa-answers.json").read_text())
    assert len(given) == 36
    by_id = {each["question_id"]: each["answer"] for each in given}
    scores = []
    for number in range(12):
        colour = ("red", "green", "blue")[number % 3]
        for each in ask(number, colour):
            scores.append(accuracy(by_id[each["question_id"]], each["answers"]))
    assert metrics(trained)["vqa/accuracy"] == pytest.approx(sum(scores) / 36)


def test_a_prediction_is_the_sigmoid_by_hand(trained: Path) -> None:
    model = florence.load(str(trained), device="cpu")
    image = picture("green", 77)
    rows = [
        {"image": image, "question": "what colour is it?"},
        {"image": image, "question": "Is it red?"},
    ]
    answers = model.predictor.predict(rows, {"top": 3})
    assert [each["question"] for each in answers] == [row["question"] for row in rows]
    assert answers[0]["label"] == "green"
    assert answers[1]["label"] == "no"
    assert len(answers[0]["probabilities"]) == 3
    stored = open_stored(str(trained))
    module = question_model_of(stored, torch.device("cpu"))
    card = stored.card
    pixels = eval_transform(card.resolution, card.mean, card.std)(decode(image))[None]
    shape = VisionLanguageShape.of(card, "here")
    with torch.no_grad():
        ids, lengths = coded_texts(["what colour is it?"], shape, torch.device("cpu"))
        expected = module(pixels, ids, lengths).sigmoid()[0].max()
    assert answers[0]["probability"] == pytest.approx(float(expected), abs=1e-5)
    with pytest.raises(ValueError, match="row 0: question must be a text"):
        model.predictor.predict([{"image": image, "question": " "}], {})
    with pytest.raises(ValueError, match="top must be a whole number"):
        model.predictor.predict(rows, {"top": 0})
    assert model.predictor.predict([], {}) == []
    both = [row["question"] for row in rows]
    assert model.predict([image, image], question=both, top=3) == answers
    (alone,) = model.predict(image, question=both[1], top=3)
    assert alone["label"] == answers[1]["label"]
    assert alone["probabilities"] == pytest.approx(answers[1]["probabilities"], abs=1e-5)
    with pytest.raises(ConfigurationError, match="question: 2 values for 1 images"):
        model.predict(image, question=both)
    with pytest.raises(ConfigurationError, match="vqa models take no 'labels': use top, question"):
        model.predict(image, labels=["a"])


def test_the_loss_is_the_plain_formula() -> None:
    batch = QuestionBatch(
        keys=("a", "b"),
        images=torch.zeros(2, 3, 1, 1),
        input_ids=torch.zeros(2, 1, dtype=torch.int64),
        lengths=torch.ones(2, dtype=torch.int64),
        answers=torch.tensor([[4, 1] + [0] * 8, [2] + [0] * 9]),
        scores=torch.tensor([[1.0, 0.3] + [0.0] * 8, [0.9] + [0.0] * 9]),
    )
    logits = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[0, 0.3, 0, 0, 1], [0, 0, 0.9, 0, 0]])
    assert torch.equal(batch.targets(5), targets)
    objective = QuestionObjective(5)
    loss = objective.loss((logits,), batch, objective.prepare(batch))
    expected = F.binary_cross_entropy_with_logits(logits, targets) * 5
    torch.testing.assert_close(loss.value, expected)
    parts = [objective.loss((logits[i : i + 1],), batch.chunk(2)[i], 2).value for i in (0, 1)]
    torch.testing.assert_close(sum(parts), expected)


def test_a_resumed_run_ends_with_the_same_bits(questions: str, tmp_path: Path) -> None:
    config = settings(
        "vqa",
        questions,
        steps=5,
        leastAnswers=2,
        dropout=0.2,
        randAugment={"operations": 1, "magnitude": 3},
    )
    run("vqa", context(tmp_path / "whole"), config)
    stop = Stop()

    def report(progress: object) -> None:
        if progress.phase == "train" and progress.step == 3:  # type: ignore[attr-defined]
            stop.request()

    with pytest.raises(StoppedError, match="after step 3"):
        run("vqa", context(tmp_path / "cut", report=report, stop=stop), config)
    run("vqa", context(tmp_path / "cut", attempt=2), config)
    expected = open_stored(str(tmp_path / "whole")).state
    resumed = open_stored(str(tmp_path / "cut")).state
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


@pytest.mark.slow
def test_ranks_chunks_and_checkpointing_do_not_matter(
    questions: str, two_towers: Path, tmp_path: Path
) -> None:
    config = settings("vqa", questions, steps=2, leastAnswers=2, optimizer=EVEN)
    run("vqa", context(tmp_path / "one", start=two_towers), config)
    chunked = config.model_copy(update={"gradient_cache_chunks": 2})
    run_gang(run_on_rank, 2, "vqa", tmp_path / "two", chunked, two_towers)
    update = {"activation_checkpointing": ActivationCheckpointing.FULL}
    full = config.model_copy(update=update)
    run("vqa", context(tmp_path / "three", start=two_towers), full)
    expected = open_stored(str(tmp_path / "one")).state
    for other in ("two", "three"):
        got = open_stored(str(tmp_path / other)).state
        for name in expected:
            torch.testing.assert_close(got[name], expected[name], **CLOSE)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="deepspeed is not installed")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_both_engines_reach_the_same(
    questions: str, two_towers: Path, tmp_path: Path, stage: int
) -> None:
    config = settings("vqa", questions, steps=2, leastAnswers=2, optimizer=EVEN)
    run("vqa", context(tmp_path / "torch", start=two_towers), config)
    other = config.model_copy(update={"engine": EngineKind.DEEPSPEED, "zero_stage": stage})
    run_gang(run_on_rank, 2, "vqa", tmp_path / "deepspeed", other, two_towers)
    expected = open_stored(str(tmp_path / "torch")).state
    got = open_stored(str(tmp_path / "deepspeed")).state
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], **CLOSE)


def test_exactly_the_listed_tensors_have_no_decay_and_rates_are_the_groups(
    questions: str, tmp_path: Path
) -> None:
    config = settings("vqa", questions, steps=1, fusionLrScale=5, headLrScale=50, leastAnswers=2)
    task = VqaTask(config, context(tmp_path), None)
    model = task.model(None, init=True)
    training = apply_rules(model, task.rules(model), config.optimizer)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = optimizer_groups(model, training)
    without = {
        names[id(p)] for group in groups if not group["weight_decay"] for p in group["params"]
    }
    tables = {name for name in training if name.endswith("relative_position_bias_table")}
    vectors = {name for name, parameter in model.named_parameters() if parameter.ndim < 2}
    embeddings = {
        "text.token_embedding.weight",
        "text.positional_embedding",
        "fusion.modality_embedding.weight",
    }
    assert without == vectors | tables | embeddings
    scales = {name.partition(".")[0]: each.lr_scale for name, each in training.items()}
    assert scales == {"image": 1, "text": 1, "fusion": 5, "head": 50}
    frozen = {name for name, each in training.items() if each.frozen}
    assert frozen == {"image.projection.weight", "text.text_projection"}


def test_frozen_towers_stay_as_they_are(questions: str, two_towers: Path, tmp_path: Path) -> None:
    config = settings("vqa", questions, steps=2, leastAnswers=2, frozenImage=True, frozenText=True)
    run("vqa", context(tmp_path, start=two_towers), config)
    before, after = open_stored(str(two_towers)).state, open_stored(str(tmp_path)).state
    for name, value in before.items():
        if name.startswith(("image.", "text.")):
            assert torch.equal(value, after[name]), name


def test_a_model_that_answers_keeps_its_answers_and_its_sizes(
    trained: Path, questions: str, tmp_path: Path
) -> None:
    config = settings("vqa", questions, steps=1, textEncoder=None, fusion=None)
    run("vqa", context(tmp_path, start=trained), config)
    card = open_stored(str(tmp_path)).card
    assert card.labels == open_stored(str(trained)).card.labels
    assert card.head == open_stored(str(trained)).card.head


def test_bad_settings_and_data_are_told_in_a_line(
    questions: str, captioned: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no answer is the majority's of 99 questions"):
        run("vqa", context(tmp_path / "a"), settings("vqa", questions, steps=1, leastAnswers=99))
    with pytest.raises(DataError, match=r"holds no question: its samples' .json need a list"):
        run("vqa", context(tmp_path / "b"), settings("vqa", captioned, steps=1))
    with pytest.raises(ConfigurationError, match="roberta: give the folder of a RoBERTa, or set"):
        run("vqa", context(tmp_path / "c"), settings("vqa", questions, steps=1, textEncoder=None))
    with pytest.raises(ConfigurationError, match="textLength=99 is more than the 77 positions"):
        run("vqa", context(tmp_path / "d"), settings("vqa", questions, steps=1, textLength=99))
    with pytest.raises(ValueError, match="texts say left and right"):
        settings("vqa", questions, steps=1, augmentation={"flip": True})


def test_the_command_asks_every_image_every_question_and_draws_where_words_look(
    trained: Path, tmp_path: Path
) -> None:
    names = []
    for colour in ("red", "blue"):
        names.append(str(tmp_path / f"{colour}.png"))
        Path(names[-1]).write_bytes(picture(colour, 9))
    asked = ["what colour is it?", "is it red, or not?"]
    flags = [word for question in asked for word in ("--question", question)]
    folder = tmp_path / "looks"
    command = ["predict", str(trained), *names, *flags, "--show-attention", str(folder)]
    result = CliRunner().invoke(app, [*command, "-o", "json"])
    assert result.exit_code == 0, result.output
    answers = json.loads(result.stdout)
    assert [(each["image"], each["question"]) for each in answers] == [
        (name, question) for name in names for question in asked
    ]
    assert [answers[0]["label"], answers[2]["label"]] == ["red", "blue"]
    pictures = sorted(path.name for path in folder.iterdir())
    assert pictures == ["blue-2.png", "blue.png", "red-2.png", "red.png"]
    assert Image.open(folder / "red.png").size[0] > 500
    table = CliRunner().invoke(app, ["predict", str(trained), names[0], *flags, "--top", "1"])
    assert table.stdout.splitlines()[0].split() == ["IMAGE", "QUESTION", "LABEL", "PROBABILITY"]
    missing = CliRunner().invoke(app, ["predict", str(trained), names[0]])
    assert missing.exit_code != 0
    assert "--question is needed by vqa models" in " ".join(missing.output.split())
