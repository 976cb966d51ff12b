"""Mode linearProbe: logistic regression on the features of a frozen image tower."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from florence.checkpoint import write_final_model
from florence.config import Metric
from florence.config.progress import StageProgress
from florence.data.labelled import Images
from florence.evaluation.labelled_data import open_multi_labelled
from florence.evaluation.linear_probe import Probe, linear_probe
from florence.evaluation.prompts import Prompts, load_prompts
from florence.evaluation.runner import EvaluationReport, Progress, evaluate_model
from florence.models.classifier import ClassifierHead, HeadShape, ImageClassifier
from florence.models.image import CoSwin
from florence.models.stored import ModelCard, model_bytes
from florence.stages.context import StageContext
from florence.stages.evaluation import agreed_stop, record_report, write_results
from florence.stages.long_work import computed_by_first
from florence.stages.training_data import READ_AS_THEY_ARE, imported
from florence.tasks.finetune.classes import classes_of
from florence.tasks.finetune.held_out import evaluations
from florence.tasks.finetune.probing import FeatureReader, Probed, open_images, probed
from florence.tasks.finetune.settings import Finetune

log = logging.getLogger(__name__)

Labels = NDArray[np.int64] | NDArray[np.bool_]
START_OVER = "it starts over next time"


@dataclass(frozen=True)
class ProbeData:
    """Images with their labels: int64 (N,), or bool (N, C) where an image has several classes."""

    images: Images
    labels: Labels


@dataclass(frozen=True)
class ProbeParts:
    """What a probe is fitted to."""

    prompts: Prompts
    train: ProbeData
    search: ProbeData | None

    @property
    def several(self) -> bool:
        """Whether an image may have several classes."""
        return self.train.labels.ndim == 2

    @property
    def images(self) -> int:
        """How many there are."""
        return len(self.train.images) + (len(self.search.images) if self.search else 0)


def probe(context: StageContext, settings: Finetune) -> None:
    """Fit, measure, and leave a classification model with a linear head; deterministic.

    Raises:
        ConfigurationError: the data's classes are not those of the prompts.
        DataError: data is missing or broken, or holds one class only.
        StoppedError: the stage was asked to stop; the next attempt starts over.
    """
    context.report(StageProgress(phase="start"))
    start = probed(context, settings)
    held_out = evaluations(context, settings)
    parts = _open(context, settings, start)
    compared = settings.compare_with_scratch and start.stored is not None
    reader = FeatureReader(
        context, settings, start.card, total=parts.images * (2 if compared else 1)
    )
    shape = HeadShape(classes=len(parts.prompts.classes), exclusive=not parts.several)
    card = start.card.model_copy(update={"head": shape.to_card(), "labels": parts.prompts.classes})
    metrics: dict[str, float] = {}
    report = EvaluationReport()
    for scratch in (False, True)[: 2 if compared else 1]:
        tower = start.tower(context, settings, scratch=scratch)
        found = _fit(context, settings, parts, reader, tower)
        model = ImageClassifier(tower, _head(found, shape, context.world.device))
        measured = EvaluationReport()
        if held_out is not None:
            measured = evaluate_model(
                model,
                card,
                held_out,
                world=context.world,
                s3=context.s3,
                progress=partial(_tell, context),
                stop=agreed_stop(context, START_OVER),
            )
        metrics |= _named({**measured.metrics, **_search_metrics(found)}, scratch=scratch)
        if not scratch:
            report = measured
            if context.world.is_first:
                _write(context, settings, parts, model, card, found)
    if context.world.is_first:
        for name, value in metrics.items():
            log.info("%s %.4g", name, value)
        context.recorder.metrics(0, metrics)
        write_results(context, metrics, record_report(context, report))


def _open(context: StageContext, settings: Finetune, start: Probed) -> ProbeParts:
    prompts = load_prompts(settings.prompts, context.s3) if settings.prompts else None
    search = settings.linear_probe.search_data
    if prompts is not None and prompts.metric is Metric.MAP11:
        several = partial(_open_several, context, settings, start, prompts)
        return ProbeParts(prompts, several(settings.data), several(search) if search else None)
    classes, train = _open_single(context, settings.data, prompts)
    if search is None:
        return ProbeParts(classes, train, None)
    return ProbeParts(classes, train, _open_single(context, search, classes)[1])


def _open_single(
    context: StageContext, uri: str, prompts: Prompts | None
) -> tuple[Prompts, ProbeData]:
    """Images with one class each, and the classes: those of the prompts where there are some."""
    data = open_images(context, uri)
    classes = classes_of(prompts, data.class_names, data.labels, data=uri)
    return classes.prompts, ProbeData(data.images, classes.numbers[data.labels])


def _open_several(
    context: StageContext, settings: Finetune, start: Probed, prompts: Prompts, uri: str
) -> ProbeData:
    """Images with any number of classes each."""
    reader = FeatureReader(context, settings, start.card, total=0)
    run = reader.evaluation_context(nn.Identity())  # labels are read, no image goes through
    where = "finetune linearProbe"
    data = open_multi_labelled(
        run, imported(context, uri, but=READ_AS_THEY_ARE), prompts, where, "prompts"
    )
    has, _ = data.truth(run)
    return ProbeData(data.images, has.numpy())


def _fit(
    context: StageContext,
    settings: Finetune,
    parts: ProbeParts,
    reader: FeatureReader,
    tower: CoSwin,
) -> Probe:
    """Features by all ranks, the regression by rank 0; every rank gets it."""
    train = reader.features(parts.train.images, tower)
    search = reader.features(parts.search.images, tower) if parts.search else None

    def work(beat: Callable[[], None]) -> Probe:
        return _solve(context, settings, parts, train, search, beat)

    return computed_by_first(context, work, then=START_OVER)


def _solve(
    context: StageContext,
    settings: Finetune,
    parts: ProbeParts,
    train: Tensor,
    search: Tensor | None,
    beat: Callable[[], None],
) -> Probe:
    chosen = settings.linear_probe
    tried = 0

    def watch(strength: float, score: float) -> None:
        nonlocal tried
        tried += 1
        log.info("L2 strength %.3g: %.4f", strength, score)
        context.report(StageProgress(phase="search", step=tried, total=chosen.strengths))
        beat()

    held = None
    if parts.search is not None and search is not None:
        held = (search.numpy(), parts.search.labels)
    context.report(StageProgress(phase="search", total=chosen.strengths))
    return linear_probe(
        train.numpy(),
        parts.train.labels,
        classes=len(parts.prompts.classes),
        validation=held,
        validation_fraction=chosen.search_fraction,
        strengths=np.logspace(
            np.log10(chosen.strength_min), np.log10(chosen.strength_max), chosen.strengths
        ),
        max_iterations=chosen.max_iterations,
        seed=settings.seed,
        watch=watch,
    )


def _head(found: Probe, shape: HeadShape, device: torch.device) -> ClassifierHead:
    head = ClassifierHead(found.weight.shape[1], shape)
    head.fc.weight = nn.Parameter(torch.from_numpy(found.weight).float())
    head.fc.bias = nn.Parameter(torch.from_numpy(found.bias).float())
    return head.to(device).eval()


def _search_metrics(found: Probe) -> dict[str, float]:
    return {
        "linear-probe/search-score": found.validation_score,
        "linear-probe/strength": found.strength,
    }


def _named(metrics: dict[str, float], *, scratch: bool) -> dict[str, float]:
    return {f"{name}/scratch" if scratch else name: value for name, value in metrics.items()}


def _tell(context: StageContext, progress: Progress) -> None:
    context.report(
        StageProgress(
            phase="evaluate", step=progress.done, total=progress.total, samples=progress.done
        )
    )


def _write(
    context: StageContext,
    settings: Finetune,
    parts: ProbeParts,
    model: ImageClassifier,
    card: ModelCard,
    found: Probe,
) -> None:
    """Record the run and write the model; on rank 0."""
    facts: dict[str, Any] = {**context.provenance, "samples": parts.images}
    card = card.model_copy(update={"trained": facts})
    context.recorder.parameters({"model": card.architecture.wire(), "stage": settings.wire()})
    context.recorder.table(
        "search", [{"strength": strength, "score": score} for strength, score in found.curve]
    )
    context.report(StageProgress(phase="export"))
    files = model_bytes(model.state_dict(), card)
    write_final_model(context.output, files, attempt=context.attempt)
    context.recorder.model(files, context.output.url("model"))
