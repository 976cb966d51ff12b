"""A whole evaluation of a small model on files, on one rank and on several."""

from __future__ import annotations

import copy
import io
import itertools
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from florence.config import (
    Baseline,
    Evaluate,
    Metric,
    Retrieval,
    RetrievalFormat,
    ZeroShot,
    architecture_of,
)
from florence.data.transforms import eval_transform
from florence.distributed.world import World
from florence.errors import ConfigurationError, DataError, StoppedError
from florence.evaluation.classify import class_embeddings
from florence.evaluation.metrics import mean_average_precision_11
from florence.evaluation.runner import EvaluationReport, Progress, evaluate_model
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
        ConfigurationError,
        match="zeroShot 'x': prompts: .* has 3 class folders or names and the prompts 10 classes",
    ):
        run(str(data / "test"), "digits")
    with pytest.raises(ConfigurationError, match="cannot read"):
        run(str(data / "test"), str(tmp_path / "none.yaml"))
    with pytest.raises(DataError, match=str(tmp_path)):
        run(str(tmp_path), "digits")


class Head(nn.Module):
    """A tower and a head; dropout, norms with statistics and hooks are what a training has on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, stride=3)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.drop(torch.relu(self.norm(self.conv(images)))).mean((2, 3)))


@pytest.fixture
def head() -> Head:
    torch.manual_seed(0)
    return Head()


def card() -> ModelCard:
    return ModelCard(
        architecture=architecture_of("coswin-nano"), window=4, resolution=SIZE, mean=MEAN, std=MEAN
    )


def with_head(data: Path, **more: Any) -> Evaluate:
    task = {
        "name": "shapes",
        "data": str(data / "test"),
        "labels": str(data / "prompts.yaml"),
        **more,
    }
    return Evaluate.model_validate({"classification": [task], "batchSize": 4, "workers": 0})


def test_a_head_is_evaluated_on_labelled_images(data: Path, head: Head) -> None:
    report = evaluate_model(head, card(), with_head(data), world=World())
    transform = eval_transform(SIZE, MEAN, MEAN)
    head.eval()
    correct = []
    with torch.no_grad():
        for label, name in enumerate(CLASSES):
            for path in sorted((data / "test" / name).iterdir()):
                correct.append(int(head(transform(Image.open(path))[None]).argmax()) == label)
    assert report.metrics == {
        "shapes/top1": pytest.approx(np.mean(correct)),
        "shapes/top5": 1.0,
        "shapes/meanPerClass": pytest.approx(np.mean(correct)),
    }
    per_class = evaluate_model(head, card(), with_head(data, metric="meanPerClass"), world=World())
    assert next(iter(per_class.metrics)) == "shapes/meanPerClass"


def test_a_head_that_does_not_fit_is_refused(data: Path, head: Head, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="card names no classes: set labels"):
        settings = Evaluate(classification=({"name": "x", "data": str(data / "test")},))
        evaluate_model(head, card(), settings, world=World())
    with pytest.raises(ConfigurationError, match="'shapes': labels: .* only the data has 'disc'"):
        evaluate_model(head, card(), with_head(data, labels="cifar10"), world=World())
    head.linear = nn.Linear(8, 5)
    with pytest.raises(ConfigurationError, match="head has 5 outputs and labels 3 names"):
        evaluate_model(head, card(), with_head(data), world=World())
    with pytest.raises(ConfigurationError, match="the model has no text tower"):
        evaluate_model(head, card(), settings_of_zero_shot(data), world=World())


def settings_of_zero_shot(data: Path) -> Evaluate:
    task = {"name": "z", "data": str(data / "test"), "prompts": str(data / "prompts.yaml")}
    return Evaluate.model_validate({"zeroShot": [task], "workers": 0, "batchSize": 4})


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


def write_shard(path: Path, samples: list[dict[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for number, members in enumerate(samples):
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{number:04}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def png(kind: str, seed: int) -> bytes:
    buffer = io.BytesIO()
    drawing(kind, seed).save(buffer, format="PNG")
    return buffer.getvalue()


def test_class_folders_are_matched_by_name(data: Path, head: Head, tmp_path: Path) -> None:
    prompts = tmp_path / "turned.yaml"
    prompts.write_text("classes: [Square, disc, ring]\n")
    turned = copy.deepcopy(head)
    with torch.no_grad():
        turned.linear.weight.copy_(head.linear.weight[[2, 0, 1]])
        turned.linear.bias.copy_(head.linear.bias[[2, 0, 1]])
    plain = evaluate_model(head, card(), with_head(data), world=World())
    other = evaluate_model(turned, card(), with_head(data, labels=str(prompts)), world=World())
    assert other.metrics == plain.metrics
    rows = {row["class"].lower(): row["correct"] for row in other.tables["shapes/classes"]}
    assert rows == {row["class"]: row["correct"] for row in plain.tables["shapes/classes"]}


def test_shards_may_name_their_classes(data: Path, head: Head, tmp_path: Path) -> None:
    order = ["ring", "square", "disc"]
    samples = [
        {"png": png(kind, 100 + n), "cls": str(order.index(kind)).encode()}
        for kind in CLASSES
        for n in range(5)
    ]
    write_shard(tmp_path / "0.tar", samples)
    task = with_head(data, data=str(tmp_path))
    (tmp_path / "classes.json").write_text(json.dumps(order))
    named = evaluate_model(head, card(), task, world=World())
    assert named.metrics == evaluate_model(head, card(), with_head(data), world=World()).metrics
    (tmp_path / "classes.json").write_text(json.dumps(["ring", "square", "cube"]))
    with pytest.raises(ConfigurationError, match="only the data has 'cube'.* have 'disc'"):
        evaluate_model(head, card(), task, world=World())
    (tmp_path / "classes.json").write_text(json.dumps(["ring"]))
    with pytest.raises(DataError, match="lists 1 classes, but a sample is of class 2"):
        evaluate_model(head, card(), task, world=World())
    (tmp_path / "classes.json").write_text("{}")
    with pytest.raises(DataError, match="must be a list of names"):
        evaluate_model(head, card(), task, world=World())


def multi_label(data: Path, folder: Path, labels: list[dict[str, Any]]) -> Evaluate:
    samples = [
        {"png": png(CLASSES[n % 3], n), "json": json.dumps(document).encode()}
        for n, document in enumerate(labels)
    ]
    write_shard(folder / "0.tar", samples)
    return with_head(data, data=str(folder), metric="mAP11")


def test_images_with_several_classes_are_judged_by_average_precision(
    data: Path, head: Head, tmp_path: Path
) -> None:
    labels = [{"labels": sorted({n % 3, n % 2})} for n in range(11)]
    labels[4]["difficult"] = [2]
    report = evaluate_model(head, card(), multi_label(data, tmp_path, labels), world=World())
    transform = eval_transform(SIZE, MEAN, MEAN)
    head.eval()
    with torch.no_grad():
        rows = [transform(drawing(CLASSES[n % 3], n))[None] for n in range(11)]
        logits = head(torch.cat(rows))
    truth = torch.tensor([[c in document["labels"] for c in range(3)] for document in labels])
    ignored = torch.zeros_like(truth)
    ignored[4, 2] = True
    expected = mean_average_precision_11(logits, truth, ignored)
    assert report.metrics == {"shapes/mAP11": pytest.approx(expected.mean, abs=1e-6)}
    values = [row["averagePrecision"] for row in report.tables["shapes/classes"]]
    assert values == pytest.approx(list(expected.average_precisions), abs=1e-6)
    # The same with names, and with names in another order beside the shards.
    names = [{"labels": [CLASSES[c] for c in document["labels"]]} for document in labels]
    names[4]["difficult"] = ["square"]
    by_name = evaluate_model(head, card(), multi_label(data, tmp_path, names), world=World())
    assert by_name.metrics == report.metrics
    (tmp_path / "classes.json").write_text(json.dumps(["square", "ring", "disc"]))
    assert (
        evaluate_model(head, card(), multi_label(data, tmp_path, names), world=World()).metrics
        == report.metrics
    )
    turned = [{key: [2 - c for c in values] for key, values in d.items()} for d in labels]
    assert (
        evaluate_model(head, card(), multi_label(data, tmp_path, turned), world=World()).metrics
        == report.metrics
    )


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"labels": [0, 3]}, "sample 0/0001 has the label 3, which names none of 3 classes"),
        ({"labels": ["cat"]}, "has the label 'cat'"),
        ({"labels": [True]}, "has the label True"),
        ({"caption": "x"}, "has no list 'labels' in its json"),
    ],
)
def test_wrong_labels_name_the_sample(
    data: Path, head: Head, tmp_path: Path, document: dict[str, Any], message: str
) -> None:
    labels = [{"labels": [0]}, document]
    with pytest.raises(DataError, match=message):
        evaluate_model(head, card(), multi_label(data, tmp_path, labels), world=World())


def test_zero_shot_of_several_classes(data: Path, tmp_path: Path) -> None:
    labels = [{"labels": sorted({n % 3, n % 2})} for n in range(7)]
    multi_label(data, tmp_path, labels)
    task = ZeroShot(
        name="voc", data=str(tmp_path), prompts=str(data / "prompts.yaml"), metric=Metric.MAP11
    )
    settings = Evaluate(zero_shot=(task,), workers=0, batch_size=4)
    model = build_model(architecture_of("coswin-nano"), seed=5)
    report = evaluate_model(model, card(), settings, world=World())
    transform = eval_transform(SIZE, MEAN, MEAN)
    with torch.no_grad():
        images = torch.cat(
            [
                model.eval().encode_image(transform(drawing(CLASSES[n % 3], n))[None])
                for n in range(7)
            ]
        )
        classes = class_embeddings(model, tokenize, CLASSES, TEMPLATES)
    truth = torch.tensor([[c in document["labels"] for c in range(3)] for document in labels])
    expected = mean_average_precision_11(images @ classes.T, truth)
    assert report.metrics == {"voc/mAP11": pytest.approx(expected.mean, abs=1e-6)}


def forwards(data: str) -> list[int]:
    """How many images each forward pass of this rank saw, texts as negative numbers."""
    import torch.distributed as dist

    model = build_model(architecture_of("coswin-nano"), seed=5)
    sizes: list[int] = []
    model.image.register_forward_hook(lambda module, args, out: sizes.append(len(out)))
    model.text.register_forward_hook(lambda module, args, out: sizes.append(-len(out)))
    world = World(rank=dist.get_rank(), size=dist.get_world_size())
    evaluate_model(model, card(), settings(Path(data)), world=world)
    return sizes


@pytest.mark.slow
def test_every_rank_runs_the_same_forward_passes(data: Path) -> None:
    """Else a model whose forward pass is collective would wait for ever: 15, 7 and 6 images on 4."""
    first, *others = run_gang(forwards, 4, str(data))
    assert all(other == first for other in others)
    assert sum(n for n in first if n > 0) == 4 + 2 + 2
