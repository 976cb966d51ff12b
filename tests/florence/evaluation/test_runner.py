"""A whole evaluation of a small model on files, on one rank and on several."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
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
from florence.errors import ConfigurationError, DataError
from florence.evaluation.runner import EvaluationReport, evaluate_model
from florence.models.stored import ModelCard
from florence.models.two_tower import TwoTower, build_model
from florence.text.tokenizer import tokenize
from tests.gang import run_gang

SIZE = 32
CLASSES = ("disc", "ring", "square")
TEMPLATES = ("{}", "a drawing of a {}", "the {} in grey")
MEAN = (0.5, 0.5, 0.5)


def drawing(kind: str, seed: int) -> Image.Image:
    rng = np.random.default_rng([seed, len(kind)])
    image = Image.new("RGB", (SIZE, SIZE), (0, 0, 0))
    left, top = (int(n) for n in rng.integers(2, 12, 2))
    box = (left, top, left + 18, top + 18)
    draw = ImageDraw.Draw(image)
    if kind == "square":
        draw.rectangle(box, outline=(250, 250, 250), fill=(120, 20, 20))
    else:
        draw.ellipse(box, outline=(250, 250, 250), fill=(200, 200, 200) if kind == "disc" else None)
    return image


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for split, count, offset in (("train", 12, 0), ("test", 5, 100)):
        for kind in CLASSES:
            (root / split / kind).mkdir(parents=True)
            for n in range(count):
                drawing(kind, offset + n).save(root / split / kind / f"{n:02}.png")
    flat, images = root / "flat", []
    flat.mkdir()
    for n in range(7):
        drawing(CLASSES[n % 3], 200 + n).save(flat / f"{n}.png")
        captions = [f"drawing {n} of a {CLASSES[n % 3]}", f"picture number {n}", f"{n} and {n}"]
        (flat / f"{n}.txt").write_text("\n".join(captions))
        images.append(
            {
                "filename": f"{n}.png",
                "split": "test" if n != 3 else "val",
                "sentences": [{"raw": caption} for caption in captions],
            }
        )
    (flat / "dataset.json").write_text(json.dumps({"images": images}))
    prompts = (
        "classes: [disc, ring, square]\ntemplates: ['{}', 'a drawing of a {}', 'the {} in grey']"
    )
    (root / "prompts.yaml").write_text(prompts)
    return root


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
    card = ModelCard(architecture=architecture, window=4, resolution=SIZE, mean=MEAN, std=MEAN)
    world = World(rank=rank, size=size)
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
    card = ModelCard(architecture=architecture, window=4, resolution=SIZE, mean=MEAN, std=MEAN)

    def run(name: str, prompts: str) -> None:
        task = ZeroShot(name="x", data=name, prompts=prompts)
        evaluate_model(model, card, Evaluate(zero_shot=(task,)), world=World())

    with pytest.raises(
        ConfigurationError, match="3 class folders or names and the prompts 10 classes"
    ):
        run(str(data / "test"), "digits")
    with pytest.raises(ConfigurationError, match="cannot read"):
        run(str(data / "test"), str(tmp_path / "none.yaml"))
    with pytest.raises(DataError, match=str(tmp_path)):
        run(str(tmp_path), "digits")
