"""Class names of data and prompts, and images with several classes, in whole evaluations."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from florence.config import Evaluate, Metric, ZeroShot, architecture_of
from florence.data.transforms import eval_transform
from florence.distributed.world import World
from florence.errors import ConfigurationError, DataError
from florence.evaluation.classify import class_embeddings
from florence.evaluation.metrics import mean_average_precision_11
from florence.evaluation.runner import evaluate_model
from florence.models.two_tower import build_model
from florence.text.tokenizer import tokenize
from tests.florence.evaluation.shapes import (
    CLASSES,
    MEAN,
    SIZE,
    TEMPLATES,
    Head,
    card,
    drawing,
    png,
    with_head,
    write_shard,
)


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
    with pytest.raises(ConfigurationError, match=r"only the data has 'cube'.* have 'disc'"):
        evaluate_model(head, card(), task, world=World())
    (tmp_path / "classes.json").write_text(json.dumps(["ring"]))
    with pytest.raises(DataError, match=r"of class 2, but classes\.json names the classes 0 to 0"):
        evaluate_model(head, card(), task, world=World())
    (tmp_path / "classes.json").write_text("{}")
    with pytest.raises(DataError, match="is not a JSON list of different class names"):
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
