"""Everything an evaluation stage computes, over all ranks: numbers, tables and pictures."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from florence.config import Baseline, Evaluate, Retrieval, RetrievalFormat, ZeroShot
from florence.config.storage import S3Settings
from florence.data.labelled import CaptionedImages, Images, LabelledImages, image_batches
from florence.distributed.world import World
from florence.errors import ConfigurationError
from florence.evaluation.baseline import pixels, svm_rbf
from florence.evaluation.classify import ClassificationResult, class_embeddings, zero_shot
from florence.evaluation.embed import embed_images, embed_texts
from florence.evaluation.picture import confusion_picture
from florence.evaluation.prompts import Prompts, load_prompts
from florence.evaluation.retrieval import RetrievalResult, recall_at_k
from florence.models.stored import ModelCard
from florence.models.two_tower import TwoTower
from florence.text.tokenizer import tokenize

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """An image of the data that a user can try the model on."""

    png: bytes
    labels: tuple[str, ...]
    prompts: str


@dataclass
class EvaluationReport:
    """Results; empty on ranks other than 0.

    ``metrics`` are fractions of 1 by ``<name>/<metric>``; ``tables`` rows and ``pictures`` PNGs by
    name; ``example`` belongs to the first zero-shot classification.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)
    example: Example | None = None


def run_evaluation(
    model: TwoTower,
    card: ModelCard,
    settings: Evaluate,
    *,
    world: World,
    s3: S3Settings | None = None,
    done: Callable[[int], None] = lambda count: None,
) -> EvaluationReport:
    """Run every task of an evaluation. Collective: every rank calls it with the same settings.

    Images are dealt out to the ranks one by one and their embeddings gathered, so the result does
    not depend on the number of ranks.

    Args:
        model: on ``world.device``; its mode is left as it was.
        card: the model's, for the resolution and the normalisation.
        settings: tasks and how to run them.
        s3: where ``s3://`` data lies.
        done: called on rank 0 with the number of tasks that are finished.

    Raises:
        ConfigurationError: prompts cannot be read, or do not fit the data's class folders.
        DataError: data is missing, broken or does not fit the prompts; names the URI.
    """
    evaluation = _Evaluation(model, card, settings, world, s3)
    # A wrong prompt file of the last task should not cost the time of the tasks before it.
    prompts = [load_prompts(task.prompts, s3) for task in settings.zero_shot]
    for task, texts in zip(settings.zero_shot, prompts, strict=True):
        evaluation.classify(task, texts)
        done(evaluation.finished)
    for task_r in settings.retrieval:
        evaluation.retrieve(task_r)
        done(evaluation.finished)
    if world.is_first:
        evaluation.report.tables["results"] = result_table(evaluation.report.metrics)
    return evaluation.report


def result_table(metrics: Mapping[str, float]) -> list[dict[str, Any]]:
    """One row per metric: task, metric, value."""
    rows = []
    for name, value in metrics.items():
        task, _, metric = name.partition("/")
        rows.append({"task": task, "metric": metric, "value": round(value, 6)})
    return rows


class _Evaluation:
    """The state that the tasks of one evaluation share."""

    def __init__(
        self,
        model: TwoTower,
        card: ModelCard,
        settings: Evaluate,
        world: World,
        s3: S3Settings | None,
    ) -> None:
        self.model, self.card, self.settings = model, card, settings
        self.world, self.s3 = world, s3
        self.report = EvaluationReport()
        self.finished = 0

    def classify(self, task: ZeroShot, prompts: Prompts) -> None:
        """One zero-shot classification."""
        data = LabelledImages.open(task.data, self.s3)
        _check_order(task, data, prompts)
        embeddings = self._embed(data.images)
        if self.world.is_first:
            classes = class_embeddings(
                self.model,
                tokenize,
                prompts.classes,
                prompts.templates,
                batch_size=self.settings.batch_size,
                precision=self.settings.precision,
            )
            result = zero_shot(embeddings, classes, torch.from_numpy(data.labels))
            self._report_classes(task, data, prompts, result)
            if task.baseline is Baseline.SVM:
                assert task.baseline_data is not None
                train = LabelledImages.open(task.baseline_data, self.s3)
                accuracy = _baseline(train, data)
                self.report.metrics[f"{task.name}/baseline/{task.baseline.value}"] = accuracy
        self.finished += 1

    def _report_classes(
        self,
        task: ZeroShot,
        data: LabelledImages,
        prompts: Prompts,
        result: ClassificationResult,
    ) -> None:
        name = task.name
        self.report.metrics |= {
            f"{name}/top1": result.top1,
            f"{name}/top5": result.top5,
            f"{name}/meanPerClass": result.mean_per_class,
        }
        confusion = result.confusion.numpy()
        self.report.tables[f"{name}/classes"] = [
            {
                "class": label,
                "images": int(row.sum()),
                "correct": int(row[index]),
                "accuracy": float(row[index] / row.sum()) if row.sum() else None,
            }
            for index, (label, row) in enumerate(zip(prompts.classes, confusion, strict=True))
        ]
        title = f"{name}: {100 * result.top1:.1f} % of {len(data)} images"
        self.report.pictures[f"{name}/confusion"] = confusion_picture(
            confusion, prompts.classes, title=title
        )
        if self.report.example is None:
            self.report.example = Example(_png(data.images), prompts.classes, task.prompts)

    def retrieve(self, task: Retrieval) -> None:
        """One retrieval in both directions."""
        data = _open_captions(task, self.s3)
        captions = [group[: task.captions_per_image] for group in data.captions]
        images = self._embed(data.images)
        if self.world.is_first:
            texts = embed_texts(
                self.model,
                tokenize,
                [caption for group in captions for caption in group],
                batch_size=self.settings.batch_size,
                precision=self.settings.precision,
            )
            owners = torch.tensor([i for i, group in enumerate(captions) for _ in group])
            result = recall_at_k(images, texts, owners)
            self.report.metrics |= _recalls(task.name, result)
        self.finished += 1

    def _embed(self, images: Images) -> Tensor:
        """Embeddings of all images on rank 0, of none elsewhere; every rank computes its share."""
        share = range(self.world.rank, len(images), self.world.size)
        batches = image_batches(
            images,
            resolution=self.settings.resolution or self.card.resolution,
            mean=self.card.mean,
            std=self.card.std,
            batch_size=self.settings.batch_size,
            workers=self.settings.workers,
            indices=share,
        )
        mine = embed_images(self.model, batches, precision=self.settings.precision)
        parts = self.world.all_gather_object(mine)
        whole = torch.empty(len(images), mine.shape[1])
        for rank, part in enumerate(parts):
            whole[rank :: self.world.size] = part
        return whole


def _check_order(task: ZeroShot, data: LabelledImages, prompts: Prompts) -> None:
    """Class folders get their numbers by name, the prompts by position: say so if they differ."""
    folders = data.class_names
    if folders is None or len(folders) == len(prompts.classes):
        return
    raise ConfigurationError(
        f"zeroShot '{task.name}': {task.data} has {len(folders)} class folders and {task.prompts} "
        f"{len(prompts.classes)} classes: list one class per folder, in the order of their names"
    )


def _open_captions(task: Retrieval, s3: S3Settings | None) -> CaptionedImages:
    if task.format is RetrievalFormat.KARPATHY:
        return CaptionedImages.from_karpathy(task.data, images=task.images, split=task.split, s3=s3)
    if task.format is RetrievalFormat.FOLDER:
        return CaptionedImages.from_folder(task.data, s3)
    return CaptionedImages.from_shards(task.data, s3)


def _recalls(name: str, result: RetrievalResult) -> dict[str, float]:
    both = {"imageToText": result.image_to_text, "textToImage": result.text_to_image}
    return {
        f"{name}/{direction}/R@{k}": recall
        for direction, recalls in both.items()
        for k, recall in recalls.items()
    }


def _baseline(train: LabelledImages, test: LabelledImages) -> float:
    fit = pixels(image for image, _ in train)
    side = round(fit.shape[1] ** 0.5)
    return svm_rbf(fit, train.labels, pixels((image for image, _ in test), side), test.labels)


def _png(images: Images) -> bytes:
    buffer = io.BytesIO()
    images.image(0).save(buffer, format="PNG")
    return buffer.getvalue()
