"""Scenes of scanned digits with captions, questions and answers, as an ordinary user's data.

A scene is one scan or two side by side on a larger sheet, each a little higher or lower. It has
five captions and five questions: how many digits there are, which is the largest, what is left of
one, whether a digit is there, and what the sum is. Ten annotators answer; most are right, some
write words for numbers, and a few are wrong. Everything is a function of the scene's number.
"""

from __future__ import annotations

import io
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from florence.config.storage import S3Settings
from florence.data.digits import TRAIN_COUNT, WORDS
from florence.data.hashing import mix, uniforms
from florence.data.indexing import index_data
from florence.data.ordered_map import map_in_threads
from florence.data.shard_writer import write_shard
from florence.storage import open_storage
from florence.text.answers import accuracy

SCENES = {"train": 4_000, "test": 400}
SCENES_PER_SHARD = 1_000
SIDE, CELL = 64, 32
MOST_DIGITS = 2
ANNOTATORS = 10
_WRITERS = 8
_LEVELS = 16
_KINDS = ("how many", "which is", "what is", "is there", "what is the")
_TYPES = ("number", "number", "other", "yes/no", "number")


@dataclass(frozen=True)
class Scene:
    """A scene.

    Attributes:
        number: of the scene within its split.
        scans: which scans stand in it, from left to right.
        digits: what they show.
    """

    number: int
    scans: tuple[int, ...]
    digits: tuple[int, ...]


def make_scene(split: str, number: int, classes: NDArray[np.int64]) -> Scene:
    """Scene ``number`` of a split, of that split's scans; ``classes`` are those of all scans."""
    draw = uniforms(mix(number, 0x5CE, split == "train"))
    first, count = (0, TRAIN_COUNT) if split == "train" else (TRAIN_COUNT, len(classes))
    if split == "test":
        count -= TRAIN_COUNT
    size = 1 + int(next(draw) * MOST_DIGITS)
    scans = tuple(first + int(next(draw) * count) for _ in range(size))
    return Scene(number, scans, tuple(int(classes[scan]) for scan in scans))


def captions_of_scene(scene: Scene) -> list[str]:
    """Five captions; the first one says most."""
    words = [WORDS[digit] for digit in scene.digits]
    count = WORDS[len(words)]
    plural = "digit" if len(words) == 1 else "digits"
    listed = _listed(words)
    return [
        f"{count} {plural}: {listed}",
        f"a row of {count} {plural}, {listed}",
        f"{count} handwritten {plural}, from left to right {listed}",
        f"the {plural} {listed}, {count} in all",
        f"a scan of {count} {plural}: {listed}",
    ]


def questions_of_scene(split: str, scene: Scene) -> list[dict[str, Any]]:
    """Five questions in the shape of VQAv2, each with ten annotators' answers."""
    draw = uniforms(mix(scene.number, 0xA5C, split == "train"))
    digits = scene.digits
    # Where a digit stands twice, what is left of it would be ambiguous: its first place counts.
    place = digits.index(digits[int(next(draw) * len(digits))])
    left = str(digits[place - 1]) if place else "nothing"
    is_there = next(draw) < 0.5
    absent = [digit for digit in range(10) if digit not in digits]
    wanted = digits if is_there else absent
    asked = wanted[int(next(draw) * len(wanted))]
    pairs = [
        ("how many digits are there?", str(len(digits))),
        ("which is the largest digit?", str(max(digits))),
        (f"what is left of the {WORDS[digits[place]]}?", left),
        (f"is there a {WORDS[asked]}?", "yes" if is_there else "no"),
        ("what is the sum of the digits?", str(sum(digits))),
    ]
    return [
        {
            "question_id": 10 * scene.number + kind,
            "question": question,
            "question_type": _KINDS[kind],
            "answer_type": _TYPES[kind],
            "multiple_choice_answer": answer,
            "answers": _annotated(answer, mix(scene.number, kind, split == "train")),
        }
        for kind, (question, answer) in enumerate(pairs)
    ]


def scene_picture(scene: Scene, scans: NDArray[Any]) -> bytes:
    """The scene as a PNG; ``scans`` are all scans (n, 8, 8) with 17 grey levels."""
    draw = uniforms(mix(scene.number, 0x91C, len(scene.scans)))
    sheet = Image.new("L", (SIDE, SIDE))
    # The row is centred, with a cell for each digit.
    left = (SIDE - CELL * len(scene.scans)) // 2
    for column, scan in enumerate(scene.scans):
        grey = np.rint(scans[scan] * (255 / _LEVELS)).astype(np.uint8)
        digit = Image.fromarray(grey).resize((CELL, CELL), Image.Resampling.BICUBIC)
        top = (SIDE - CELL) // 2 + int((next(draw) - 0.5) * CELL)
        sheet.paste(digit, (left + CELL * column, top))
    buffer = io.BytesIO()
    sheet.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def write_questions(out: str, s3: S3Settings | None = None) -> dict[str, int]:
    """Write the scenes of both splits under a folder or ``s3://`` prefix.

    Each split is a folder of shards whose ``.json`` have captions and questions, beside it a folder
    ``SPLIT-files`` with the same as the field's own files: images, VQAv2's two json and Karpathy's.

    Returns:
        The number of scenes by split.
    """
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    scans = pixels.reshape(-1, 8, 8)
    base = out.rstrip("/") or "/"
    for split, count in SCENES.items():
        made = [make_scene(split, number, classes) for number in range(count)]
        storage = open_storage(f"{base}/{split}", s3)
        for shard, start in enumerate(range(0, count, SCENES_PER_SHARD)):
            write_shard(
                storage,
                f"scenes-{shard:06d}.tar",
                (_sample(split, scene, scans) for scene in made[start : start + SCENES_PER_SHARD]),
            )
        index_data(f"{base}/{split}", s3)
        _write_files(f"{base}/{split}-files", s3, split, made, scans)
    return dict(SCENES)


def questions_of_split(split: str) -> list[dict[str, Any]]:
    """The questions of all scenes of a split."""
    from sklearn.datasets import load_digits

    _, classes = load_digits(return_X_y=True)
    made = (make_scene(split, number, classes) for number in range(SCENES[split]))
    return [question for scene in made for question in questions_of_scene(split, scene)]


def language_only_accuracy(
    train: Sequence[Mapping[str, Any]], test: Sequence[Mapping[str, Any]]
) -> float:
    """The accuracy of whoever answers ``test`` without looking, having read ``train``.

    The answer to each question is the one that most often was right for the same words; for unknown
    words that of the question's first two.
    """
    by_text: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for each in train:
        for key in (each["question"], " ".join(each["question"].split()[:2])):
            by_text[key][each["multiple_choice_answer"]] += 1
    total = 0.0
    for each in test:
        known = by_text[each["question"]] or by_text[" ".join(each["question"].split()[:2])]
        guess = known.most_common(1)[0][0] if known else ""
        total += accuracy(guess, each["answers"])
    return total / len(test)


def _annotated(answer: str, key: int) -> list[str]:
    """Ten answers: most the right one, some of them in words, and up to two wrong ones."""
    draw = uniforms(mix(key, 0xA11))
    wrong = int(next(draw) * 3)
    spelt = WORDS[int(answer)] if answer.isdigit() and int(answer) < 10 else answer
    right = [spelt if next(draw) < 0.2 else answer for _ in range(ANNOTATORS - wrong)]
    others = ["maybe", "yes", "no", "3", "nothing", "7"]
    guesses = [each for each in others if each != answer]
    return right + [guesses[int(next(draw) * len(guesses))] for _ in range(wrong)]


def _listed(words: Sequence[str]) -> str:
    named = [f"a {word}" if word != "eight" else "an eight" for word in words]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def _sample(split: str, scene: Scene, scans: NDArray[Any]) -> tuple[str, dict[str, bytes]]:
    captions = captions_of_scene(scene)
    meta = {
        "caption": captions[0],
        "captions": captions,
        "questions": questions_of_scene(split, scene),
        "image_id": scene.number,
        "digits": list(scene.digits),
    }
    return f"{scene.number:06d}", {
        "png": scene_picture(scene, scans),
        "txt": captions[0].encode(),
        "json": json.dumps(meta).encode(),
    }


def _file_name(scene: Scene) -> str:
    return f"{scene.number:06d}.png"


def _write_files(
    folder: str,
    s3: S3Settings | None,
    split: str,
    scenes: Sequence[Scene],
    scans: NDArray[Any],
) -> None:
    storage = open_storage(folder, s3)
    # Several at a time: each waits for the disk or the network alone.
    for _ in map_in_threads(
        lambda scene: storage.write(_file_name(scene), scene_picture(scene, scans)),
        scenes,
        _WRITERS,
    ):
        pass
    images, questions, annotations = [], [], []
    for scene in scenes:
        name = _file_name(scene)
        sentences = [
            {"raw": caption, "sentid": 5 * scene.number + i}
            for i, caption in enumerate(captions_of_scene(scene))
        ]
        images.append(
            {"filename": name, "imgid": scene.number, "split": split, "sentences": sentences}
        )
        for each in questions_of_scene(split, scene):
            one = {"image_id": scene.number, "question_id": each["question_id"]}
            questions.append({**one, "image": name, "question": each["question"]})
            answers = [
                {"answer": answer, "answer_confidence": "yes", "answer_id": i + 1}
                for i, answer in enumerate(each["answers"])
            ]
            kept = ("question_type", "answer_type", "multiple_choice_answer")
            annotations.append({**one, **{k: each[k] for k in kept}, "answers": answers})
    subtype = {"data_subtype": split}
    documents = {
        "questions.json": {**subtype, "questions": questions},
        "annotations.json": {**subtype, "annotations": annotations},
        "dataset_digits.json": {"dataset": "digits", "images": images},
    }
    for name, document in documents.items():
        storage.write(name, json.dumps(document).encode())
