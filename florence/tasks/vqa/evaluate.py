"""The evaluation ``questionAnswering``: the VQA challenge's accuracy, and its server's answers."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from florence.config.evaluations import QuestionAnswering
from florence.data.labelled import image_batches
from florence.data.left_out import check_whole
from florence.data.questions import Question, QuestionImages, QuestionSet, list_questions
from florence.data.shards import Need, ShardSet
from florence.errors import ConfigurationError
from florence.evaluation.context import EvaluationContext, Prepared, Results
from florence.evaluation.embed import inference
from florence.evaluation.picture_grid import picture_grid
from florence.tasks.vision_language.texts import coded_texts
from florence.tasks.vqa.model import QuestionModel
from florence.text.answers import accuracy, majority, normalised

SHOWN = 8
_METRICS = {"yes/no": "yesNo", "number": "number", "other": "other"}


def prepare(context: EvaluationContext, settings: QuestionAnswering) -> Prepared:
    """Open the questions.

    Raises:
        ConfigurationError: the model answers no questions.
        DataError: data is missing or broken; names the URI.
    """
    model = context.model
    if not isinstance(model, QuestionModel):
        raise ConfigurationError(
            f"questionAnswering '{settings.name}': the model answers no questions"
        )
    images = ShardSet.open(settings.data, context.s3, need=Need.IMAGE, **context.opening)
    check_whole(images)
    listed = list_questions(images, majority, share=context.world.on_first)
    questions = QuestionSet(images, listed.counts)

    def run() -> Results:
        asked: list[Question] = context.gathered(
            len(questions), lambda share: (questions.question(i) for i in share)
        )
        best = _best(context, model, questions, asked)
        if not context.world.is_first:
            return Results()
        answers = [context.card.labels[i] for i in best.tolist()]
        return results_of(settings.name, questions, asked, answers, context.card.labels)

    return Prepared(len(questions), run)


def results_of(
    name: str,
    questions: QuestionSet,
    asked: Sequence[Question],
    answers: Sequence[str],
    vocabulary: Sequence[str],
) -> Results:
    """Accuracies, tables, the server's file and a grid of images, of every question's answer.

    Questions without annotators' answers are in the file and nowhere else.
    """
    given = [
        {"question_id": question.question_id, "answer": answer}
        for question, answer in zip(asked, answers, strict=True)
    ]
    files = {f"{name}-answers.json": json.dumps(given).encode()}
    scored = [
        (question, answer, accuracy(answer, question.answers))
        for question, answer in zip(asked, answers, strict=True)
        if question.answers
    ]
    if not scored:
        return Results(files=files)
    metrics, table = _accuracies(scored)
    known = frozenset(vocabulary)
    outside = sum(
        not any(normalised(answer) in known for answer in question.answers)
        for question, _, _ in scored
    )
    metrics["outsideVocabulary"] = outside / len(scored)
    return Results(
        metrics=metrics,
        tables={"byType": table},
        pictures={"answers": _grid(name, questions, asked, answers)},
        files=files,
    )


def _accuracies(
    scored: Sequence[tuple[Question, str, float]],
) -> tuple[dict[str, float], list[dict[str, object]]]:
    """Overall and by answer type as metrics, by answer and question type as a table."""
    metrics = {"accuracy": sum(score for _, _, score in scored) / len(scored)}
    table: list[dict[str, object]] = []
    for kind in ("answer_type", "question_type"):
        groups: defaultdict[str, list[float]] = defaultdict(list)
        for question, _, score in scored:
            if getattr(question, kind):
                groups[getattr(question, kind)].append(score)
        for value, scores in sorted(groups.items()):
            mean = sum(scores) / len(scores)
            row: dict[str, object] = {
                "type": value,
                "of": kind,
                "questions": len(scores),
                "accuracy": round(mean, 6),
            }
            table.append(row)
            if kind == "answer_type" and value in _METRICS:
                metrics[_METRICS[value]] = mean
    return metrics, table


def _best(
    context: EvaluationContext,
    model: QuestionModel,
    questions: QuestionSet,
    asked: Sequence[Question],
) -> Tensor:
    """The number of the most probable answer of every question: (N,) on every rank."""

    def rows(share: Sequence[int]) -> Tensor:
        batches = image_batches(
            QuestionImages(questions),
            resolution=context.resolution,
            mean=context.card.mean,
            std=context.card.std,
            batch_size=context.batch_size,
            workers=context.workers,
            indices=share,
        )
        found, start = [], 0
        with inference(model, context.precision) as device:
            for images in batches:
                texts = [asked[i].text for i in share[start : start + len(images)]]
                ids, lengths = coded_texts(texts, model.shape, device)
                logits = model(images.to(device, non_blocking=True), ids, lengths)
                found.append(logits.float().argmax(dim=1).cpu())
                start += len(images)
                context.watch(len(images))
        return torch.cat(found)

    return context.dealt(len(questions), rows)


def _grid(
    name: str, questions: QuestionSet, asked: Sequence[Question], answers: Sequence[str]
) -> bytes:
    step = max(1, len(asked) // SHOWN)
    shown = range(0, len(asked), step)[:SHOWN]
    images = QuestionImages(questions)
    texts = [
        f"{asked[i].text}\ntruth: {majority(asked[i].answers) if asked[i].answers else '?'}\n"
        f"answer: {answers[i]}"
        for i in shown
    ]
    return picture_grid([images.image(i) for i in shown], texts, title=name)
