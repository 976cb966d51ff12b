"""Images with questions: every question is a sample of its own, and no image is stored twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from florence.data.images import BrokenImageError, decode
from florence.data.members import parse_json
from florence.data.opening import Share, alone
from florence.data.ordered_map import map_in_threads
from florence.data.shards import BrokenSampleError, Place, Sample, ShardSet
from florence.errors import DataError

READERS = 16


@dataclass(frozen=True)
class Question:
    """A question about an image.

    Attributes:
        question_id: as the data set has it; what an evaluation server asks for.
        text: the question.
        answers: of the annotators, as they were given; empty in a test set.
        question_type, answer_type: as the data set has them; empty without.
    """

    question_id: Any
    text: str
    answers: tuple[str, ...] = ()
    question_type: str = ""
    answer_type: str = ""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Question:
        """From an entry of ``questions``. Raises ``ValueError`` where it is none."""
        text, answers = values.get("question"), values.get("answers", ())
        if not isinstance(text, str) or not text.strip():
            raise ValueError("a question has no text")
        if not isinstance(answers, list | tuple) or not all(isinstance(a, str) for a in answers):
            raise ValueError(f"question {values.get('question_id')}: answers is no list of texts")
        return cls(
            question_id=values.get("question_id"),
            text=text,
            answers=tuple(answers),
            question_type=str(values.get("question_type", "")),
            answer_type=str(values.get("answer_type", "")),
        )


@dataclass(frozen=True)
class Listed:
    """What one pass over the samples' json found.

    Attributes:
        counts: int64, questions of each image.
        majorities: for each answer, of how many questions it is the majority's.
    """

    counts: NDArray[np.int64]
    majorities: Mapping[str, int]


class QuestionSet(ShardSet):
    """The questions of a set of images: ``len`` and ``read(i)`` count questions.

    A sample's ``text`` is the question and its ``meta`` the entry of ``questions``; its key ends
    with the question's number, so that crops of one image differ from question to question.

    Args:
        images: the images.
        counts: int64, how many questions each has.

    Raises:
        DataError: there is no question.
    """

    def __init__(self, images: ShardSet, counts: NDArray[np.int64]) -> None:
        self.__setstate__(images.__getstate__())
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        if not len(self):
            raise DataError(
                f"{images.uri} holds no question: its samples' .json need a list 'questions'; "
                "'florencectl data import vqa' writes such shards"
            )

    def __len__(self) -> int:
        # While the state is being taken over there are images only.
        starts = self.__dict__.get("_starts")
        return super().__len__() if starts is None else int(starts[-1])

    @property
    def size(self) -> int:
        """Bytes of the images, as often as they are read in an epoch."""
        return super().size * max(1, len(self) // max(1, super().__len__()))

    @property
    def fingerprint(self) -> str:
        """That of the images, and of how many questions each has."""
        digest = hashlib.blake2b(super().fingerprint.encode(), digest_size=16)
        digest.update(self._starts.tobytes())
        return digest.hexdigest()

    def image_of(self, i: int) -> tuple[int, int]:
        """The image of question ``i``, and the question's number among that image's."""
        if not 0 <= i < len(self):
            raise IndexError(f"question {i} of {len(self)}")
        image = int(np.searchsorted(self._starts, i, side="right")) - 1
        return image, i - int(self._starts[image])

    def shard_of(self, i: int) -> str:
        """See :class:`ShardSet`."""
        return super().shard_of(self.image_of(i)[0])

    def place(self, i: int) -> Place:
        """See :class:`ShardSet`."""
        return super().place(self.image_of(i)[0])

    def key(self, i: int) -> str:
        """See :class:`ShardSet`."""
        image, number = self.image_of(i)
        return f"{super().key(image)}#{number}"

    def parse(self, i: int, run: bytes) -> Sample:
        """See :class:`ShardSet`."""
        image, number = self.image_of(i)
        sample = super().parse(image, run)
        try:
            entry = questions_in(sample.meta)[number]
            question = Question.of(entry)
        except (ValueError, IndexError) as error:
            shard, _, key = sample.key.rpartition("/")
            raise BrokenSampleError(f"{shard}.tar", key, str(error)) from None
        return replace(
            sample,
            key=f"{sample.key}#{number}",
            text=question.text,
            meta_bytes=json.dumps(entry).encode(),
        )

    def question(self, i: int) -> Question:
        """Question ``i`` without its image.

        Raises:
            DataError: it cannot be read; names the shard and the sample.
        """
        image, number = self.image_of(i)
        try:
            return Question.of(questions_in(parse_json(self.read_meta_bytes(image)))[number])
        except (ValueError, IndexError) as error:
            raise DataError(f"{super().shard_of(image)}: {super().key(image)}: {error}") from None


@dataclass(frozen=True)
class QuestionImages:
    """The image of every question; see :class:`florence.data.labelled.Images`."""

    questions: QuestionSet

    def __len__(self) -> int:
        return len(self.questions)

    def image(self, i: int) -> Image.Image:
        """The image of question ``i`` in RGB. Raises :class:`DataError`; names it."""
        try:
            return decode(self.questions.read(i).image_bytes)
        except (BrokenSampleError, BrokenImageError) as error:
            raise DataError(
                f"{self.questions.shard_of(i)}: sample {self.questions.key(i)}: {error}: replace "
                "or remove it"
            ) from error


def questions_in(meta: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The entries of ``questions`` in a sample's json."""
    listed = meta.get("questions")
    return (
        [each for each in listed if isinstance(each, Mapping)] if isinstance(listed, list) else []
    )


def list_questions(
    images: ShardSet,
    majority: Callable[[tuple[str, ...]], str],
    *,
    share: Share = alone,
    on_images: Callable[[int, int], None] = lambda done, total: None,
) -> Listed:
    """Read the json of every image once, by one process for all.

    Args:
        images: the set.
        majority: what most of a question's annotators say.
        share: see :class:`florence.data.opening.Share`.
        on_images: told now and then how many images were read, of how many.
    """

    def work() -> Listed:
        counts, majorities = [], dict[str, int]()
        for done, entries in enumerate(_entries(images), 1):
            counts.append(len(entries))
            for entry in entries:
                answers = tuple(a for a in entry.get("answers") or () if isinstance(a, str))
                if answers:
                    answer = majority(answers)
                    majorities[answer] = majorities.get(answer, 0) + 1
            if done % 1_000 == 0:
                on_images(done, len(images))
        return Listed(np.array(counts, np.int64), majorities)

    return share(work)


def _entries(images: ShardSet) -> Iterator[list[Mapping[str, Any]]]:
    def read(i: int) -> list[Mapping[str, Any]]:
        try:
            return questions_in(parse_json(images.read_meta_bytes(i)))
        except ValueError:
            return []

    return map_in_threads(read, iter(range(len(images))), READERS)
