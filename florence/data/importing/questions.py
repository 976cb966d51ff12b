"""Questions about images with their annotators' answers: VQAv2, and data sets of its shape.

A row is an image with all its questions, which become ``questions`` of its ``.json``:
``{question_id, question, question_type, answer_type, answers}``, the answers as they were given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from florence.config.storage import S3Settings
from florence.data.importing.documents import objects, read_documents
from florence.data.importing.rows import BrokenRow, ImageFolder, Row, Source, split_uri
from florence.data.importing.settings import Questions
from florence.errors import ConfigurationError, DataError
from florence.storage import open_storage


@dataclass(frozen=True)
class _Asked:
    """A question of a file, with the image that it is about."""

    where: str
    image: str
    image_id: Any
    question: dict[str, Any]


def open_questions(sources: Sequence[str], settings: Questions, s3: S3Settings | None) -> Source:
    """Open files of questions, and of annotations, in any order.

    Without a file of annotations the one beside the questions is taken that VQAv2's naming says;
    where there is none, the questions have no answers.

    Raises:
        DataError: a file is missing or of neither kind, or there are no questions.
        ConfigurationError: ``imageName`` cannot be filled in.
    """
    uris = [*sources, *_beside(sources, s3)]
    documents, identity = read_documents(uris, s3)
    asked = [each for each in documents if isinstance(each[1], dict) and "questions" in each[1]]
    answered = [each for each in documents if each not in asked]
    if not asked:
        raise DataError(f"{sources[0]} has no list 'questions': give a file of questions, too")
    answers = _answers(answered)

    def rows() -> Iterator[Row | BrokenRow]:
        images: dict[tuple[str, str], list[_Asked]] = {}
        known = set()
        for uri, document in asked:
            for number, question in enumerate(objects(document, "questions", uri)):
                known.add(question.get("question_id"))
                found = _asked(
                    uri, number, question, document, answers if answered else None, settings
                )
                if isinstance(found, BrokenRow):
                    yield found
                else:
                    folder = settings.images or split_uri(uri)[0]
                    images.setdefault((folder, found.image), []).append(found)
        for identifier, (where, _) in answers.items():
            if identifier not in known:
                yield BrokenRow(where, "no question has this id: add the file of questions")
        for (folder, name), questions in images.items():
            yield _row(ImageFolder(folder, s3), name, questions)

    name = split_uri(sources[0])[1].rpartition(".")[0]
    return Source(name=name, identity=identity, rows=rows)


def _beside(sources: Sequence[str], s3: S3Settings | None) -> list[str]:
    """The annotations that VQAv2's naming puts beside a single file of questions."""
    if len(sources) != 1:
        return []
    folder, name = split_uri(sources[0])
    other = name.replace("OpenEnded_", "").replace("questions", "annotations")
    if other == name or open_storage(folder, s3).size(other) is None:
        return []
    return [f"{folder}/{other}"]


def _answers(
    documents: Sequence[tuple[str, Mapping[str, Any]]],
) -> dict[Any, tuple[str, Mapping[str, Any]]]:
    """Annotations by question, each with where it stands."""
    found: dict[Any, tuple[str, Mapping[str, Any]]] = {}
    for uri, document in documents:
        for annotation in objects(document, "annotations", uri):
            identifier = annotation.get("question_id")
            found[identifier] = (f"{uri} question {identifier}", annotation)
    return found


def _asked(
    uri: str,
    number: int,
    question: Mapping[str, Any],
    document: Mapping[str, Any],
    answers: Mapping[Any, tuple[str, Mapping[str, Any]]] | None,
    settings: Questions,
) -> _Asked | BrokenRow:
    identifier = question.get("question_id", f"number {number}")
    where = f"{uri} question {identifier}"
    text = question.get("question")
    if not isinstance(text, str) or not text.strip():
        return BrokenRow(where, "has no text: write one or remove it")
    if not _is_unicode(text):
        return BrokenRow(where, "its text is not Unicode: convert it to UTF-8")
    made: dict[str, Any] = {"question_id": identifier, "question": text.strip()}
    if answers is not None:
        if identifier not in answers:
            return BrokenRow(where, "has no annotation: add it or remove the question")
        wrong = _take_answers(made, answers[identifier][1], settings.annotators)
        if wrong:
            return BrokenRow(answers[identifier][0], wrong)
    image_id = question.get("image_id")
    named = question.get("image")
    name = named if isinstance(named, str) else _image_name(settings.image_name, image_id, document)
    return _Asked(where, name, image_id, made)


def _take_answers(
    made: dict[str, Any], annotation: Mapping[str, Any], annotators: int
) -> str | None:
    """Add an annotation's answers to a question; returns what is wrong with them."""
    listed = annotation.get("answers")
    found = [
        each.get("answer") if isinstance(each, Mapping) else each
        for each in (listed if isinstance(listed, list) else [])
    ]
    texts = [each for each in found if isinstance(each, str)]
    if not texts or len(texts) < len(found):
        return "has no answers: give a list of texts"
    if not all(map(str.strip, texts)):
        return "an answer is empty: write it or remove the annotation"
    if not all(map(_is_unicode, texts)):
        return "an answer is not Unicode: convert it to UTF-8"
    if annotators and len(texts) != annotators:
        return (
            f"has {len(texts)} answers instead of {annotators}: give all, or set annotators to the "
            "number that there are, 0 for any"
        )
    made["answers"] = texts
    for name in ("question_type", "answer_type", "multiple_choice_answer"):
        if isinstance(annotation.get(name), str):
            made[name] = annotation[name]
    return None


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _image_name(pattern: str, image_id: Any, document: Mapping[str, Any]) -> str:
    if isinstance(image_id, str) and "." in image_id:
        return image_id
    try:
        return pattern.format(id=image_id, subtype=document.get("data_subtype", ""))
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"imageName '{pattern}' cannot be filled in for the image {image_id!r}: {error}: use "
            "{id} and {subtype}"
        ) from None


def _row(folder: ImageFolder, name: str, questions: Sequence[_Asked]) -> Row | BrokenRow:
    first = questions[0]
    try:
        image = folder.find(name)
    except ValueError as error:
        return BrokenRow(first.where, str(error))
    return Row(
        where=first.where,
        source=name,
        image=image,
        meta={"image_id": first.image_id, "questions": [each.question for each in questions]},
    )
