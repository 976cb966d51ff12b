"""A whole evaluation of a small model on files, on one rank and on several."""

from __future__ import annotations

import copy
import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from florence.config import (
    Baseline,
    Evaluate,
    Retrieval,
    RetrievalFormat,
    ZeroShot,
    architecture_of,
)
from florence.data.transforms import eval_transform
from florence.distributed.world import World
from florence.errors import ConfigurationError, DataError, StoppedError
from florence.evaluation.runner import EvaluationReport, Progress, evaluate_model
from florence.models.stored import ModelCard
from florence.models.two_tower import TwoTower, build_model
from florence.text.tokenizer import tokenize
from tests.florence.evaluation.shapes import (
    CLASSES,
    MEAN,
    SIZE,
    TEMPLATES,
    Head,
    card,
    with_head,
)
from tests.gang import run_gang


def settings(data: Path, **more: Any) -> Evaluate:
    return Evaluate(
        zero_shot=(
            ZeroShot(
                name="shapes",
                data=str(data / "test"),
                prompts=str(data / "prompts.yaml"),
                baseline=Baseline.SVM,
                baseline_data=str(data / "train"),
            ),
        ),
        retrieval=(
            Retrieval(
                name="flat",
                data=str(data / "flat"),
                format=RetrievalFormat.FOLDER,
                captions_per_image=2,
            ),
            Retrieval(
                name="karpathy",
                data=str(data / "flat" / "dataset.json"),
                format=RetrievalFormat.KARPATHY,
            ),
        ),
        batch_size=4,
        workers=0,
        **more,
    )


def evaluate(
    data: str, rank: int = 0, size: int = 1, resolution: int | None = None
) -> EvaluationReport:
    architecture = architecture_of("coswin-nano")
    model = build_model(architecture, seed=5)
    card = ModelCard(
        task="contrastive",
        architecture=architecture,
        window=4,
        resolution=SIZE,
        mean=MEAN,
        std=MEAN,
    )
    world = World(rank=rank, size=size, local_size=size)
    return evaluate_model(model, card, settings(Path(data), resolution=resolution), world=world)


def evaluate_as_rank(data: str) -> EvaluationReport:
    import torch.distributed as dist

    return evaluate(data, dist.get_rank(), dist.get_world_size())


@pytest.fixture(scope="module")
def report(data: Path) -> EvaluationReport:
    return evaluate(str(data))


def by_hand(data: Path) -> tuple[TwoTower, Any]:
    model = build_model(architecture_of("coswin-nano"), seed=5).eval()
    return model, eval_transform(SIZE, MEAN, MEAN)


def image_rows(paths: list[Path], model: TwoTower, transform: Any) -> Tensor:
    with torch.no_grad():
        return torch.cat([model.encode_image(transform(Image.open(p))[None]) for p in paths])


def test_the_numbers_are_those_of_a_loop_over_single_images(
    data: Path, report: EvaluationReport
) -> None:
    model, transform = by_hand(data)
    with torch.no_grad():
        classes = []
        for name in CLASSES:
            vectors = [model.encode_text(tokenize([t.replace("{}", name)]))[0] for t in TEMPLATES]
            mean = torch.stack(vectors).mean(0)
            classes.append(mean / mean.norm())
    correct = []
    for label, name in enumerate(CLASSES):
        paths = sorted((data / "test" / name).iterdir())
        scores = image_rows(paths, model, transform) @ torch.stack(classes).T
        correct += (scores.argmax(1) == label).tolist()
    assert report.metrics["shapes/top1"] == pytest.approx(np.mean(correct))
    assert report.metrics["shapes/top5"] == 1.0
    paths = [data / "flat" / f"{n}.png" for n in range(7)]
    texts = [(data / "flat" / f"{n}.txt").read_text().splitlines()[:2] for n in range(7)]
    images = image_rows(paths, model, transform)
    with torch.no_grad():
        captions = model.encode_text(tokenize([c for group in texts for c in group]))
    order = (images @ captions.T).argsort(dim=1, descending=True)
    hit = [any(int(t) // 2 == i for t in row[:1]) for i, row in enumerate(order)]
    assert report.metrics["flat/imageToText/R@1"] == pytest.approx(np.mean(hit))


def test_what_a_report_holds(report: EvaluationReport) -> None:
    recalls = [f"{way}/R@{k}" for way in ("imageToText", "textToImage") for k in (1, 5, 10)]
    assert list(report.metrics) == [
        "shapes/top1",
        "shapes/top5",
        "shapes/meanPerClass",
        "shapes/baseline/svm-rbf",
        *(f"flat/{name}" for name in recalls),
        *(f"karpathy/{name}" for name in recalls),
    ]
    assert all(0 <= value <= 1 for value in report.metrics.values())
    assert report.metrics["shapes/baseline/svm-rbf"] > 0.7
    assert [row["images"] for row in report.tables["shapes/classes"]] == [5, 5, 5]
    assert report.tables["results"][0] == {
        "task": "shapes",
        "metric": "top1",
        "value": pytest.approx(report.metrics["shapes/top1"], abs=1e-6),
    }
    picture = Image.open(io.BytesIO(report.pictures["shapes/confusion"]))
    assert picture.format == "PNG"
    assert report.example is not None
    assert report.example.labels == CLASSES
    assert Image.open(io.BytesIO(report.example.png)).size == (SIZE, SIZE)


@pytest.mark.slow
def test_the_number_of_ranks_changes_nothing(data: Path, report: EvaluationReport) -> None:
    first, *others = run_gang(evaluate_as_rank, 3, str(data))
    assert first.metrics == pytest.approx(report.metrics)
    assert first.tables == report.tables
    assert all(not other.metrics and not other.pictures for other in others)


def test_another_resolution_is_another_result_of_the_same_shape(
    data: Path, report: EvaluationReport
) -> None:
    larger = evaluate(str(data), resolution=64)
    assert larger.metrics.keys() == report.metrics.keys()
    assert larger.pictures != report.pictures or larger.metrics != report.metrics


def test_mistakes_are_named(data: Path, tmp_path: Path) -> None:
    architecture = architecture_of("coswin-nano")
    model = build_model(architecture, seed=5)
    card = ModelCard(
        task="contrastive",
        architecture=architecture,
        window=4,
        resolution=SIZE,
        mean=MEAN,
        std=MEAN,
    )

    def run(name: str, prompts: str) -> None:
        task = ZeroShot(name="x", data=name, prompts=prompts)
        evaluate_model(model, card, Evaluate(zero_shot=(task,)), world=World())

    with pytest.raises(
        ConfigurationError,
        match=r"zeroShot 'x': prompts: .* has 3 class folders or names and the prompts 10 classes",
    ):
        run(str(data / "test"), "digits")
    with pytest.raises(ConfigurationError, match="cannot read"):
        run(str(data / "test"), str(tmp_path / "none.yaml"))
    with pytest.raises(DataError, match=str(tmp_path)):
        run(str(tmp_path), "digits")


def test_a_training_that_is_evaluated_amid_is_the_same_training(data: Path, head: Head) -> None:
    """Modes, statistics and the random state: three steps with and without an evaluation."""
    images = torch.randn(12, 3, SIZE, SIZE)

    def train(evaluated: bool) -> dict[str, Tensor]:
        model = copy.deepcopy(head)
        model.train()
        model.norm.eval()  # a mode of its own, as fine-tuning has it
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        torch.manual_seed(1)
        np.random.seed(1)
        for _ in range(3):
            if evaluated:
                evaluate_model(model, card(), with_head(data), world=World())
            optimizer.zero_grad()
            model(images).square().sum().backward()
            optimizer.step()
        state = model.state_dict() | {"numpy": torch.tensor(np.random.rand(2))}
        return state | {"modes": torch.tensor([part.training for part in model.modules()])}

    plain, evaluated = train(False), train(True)
    for name, value in plain.items():
        assert torch.equal(value, evaluated[name]), name


def test_two_runs_are_equal_to_the_last_bit(data: Path, report: EvaluationReport) -> None:
    torch.manual_seed(12345)
    again = evaluate(str(data))
    assert again.metrics == report.metrics
    assert again.tables == report.tables


def test_progress_moves_with_every_batch_and_ends_at_the_total(data: Path) -> None:
    model = build_model(architecture_of("coswin-nano"), seed=5)
    seen: list[Progress] = []
    evaluate_model(model, card(), settings(data), world=World(), progress=seen.append)
    done, totals = [p.done for p in seen], {p.total for p in seen}
    # 15 images and 9 texts; 7 images and their 14 captions; 6 images and 18 captions.
    assert totals == {15 + 9 + 7 + 14 + 6 + 18}
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] in totals
    assert max(b - a for a, b in itertools.pairwise(done)) <= 4
    assert list(dict.fromkeys(p.evaluation for p in seen)) == ["shapes", "flat", "karpathy"]


def test_a_request_to_stop_is_obeyed_after_the_batch(data: Path) -> None:
    model = build_model(architecture_of("coswin-nano"), seed=5).train()
    batches: list[int] = []

    def stop() -> None:
        if len(batches) > 4:
            raise StoppedError("stopped on request")

    with pytest.raises(StoppedError):
        evaluate_model(
            model,
            card(),
            settings(data),
            world=World(),
            progress=lambda progress: batches.append(progress.done),
            stop=stop,
        )
    assert len(batches) == 5
    assert all(part.training for part in model.modules())


def test_all_settings_are_checked_before_any_work(data: Path) -> None:
    model = build_model(architecture_of("coswin-nano"), seed=5)
    good = settings(data)
    bad = good.model_copy(
        update={"retrieval": (Retrieval(name="gone", data=str(data / "nowhere")),)}
    )
    seen: list[Progress] = []
    with pytest.raises(DataError, match="nowhere"):
        evaluate_model(model, card(), bad, world=World(), progress=seen.append)
    assert not seen


def forwards(data: str) -> list[int]:
    """How many images each forward pass of this rank saw, texts as negative numbers."""
    import torch.distributed as dist

    model = build_model(architecture_of("coswin-nano"), seed=5)
    sizes: list[int] = []
    model.image.register_forward_hook(lambda module, args, out: sizes.append(len(out)))
    model.text.register_forward_hook(lambda module, args, out: sizes.append(-len(out)))
    size = dist.get_world_size()
    world = World(rank=dist.get_rank(), size=size, local_size=size)
    evaluate_model(model, card(), settings(Path(data)), world=world)
    return sizes


@pytest.mark.slow
def test_every_rank_runs_the_same_forward_passes(data: Path) -> None:
    """Else a model whose forward pass is collective would wait for ever: 15, 7, 6 images on 4."""
    first, *others = run_gang(forwards, 4, str(data))
    assert all(other == first for other in others)
    assert sum(n for n in first if n > 0) == 4 + 2 + 2
