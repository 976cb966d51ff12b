"""Stages that fuse image and text on tiny data, as tests of every kind run them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch.distributed as dist

from florence.data.importing.importer import import_data
from florence.data.importing.registry import import_format
from florence.data.importing.settings import Karpathy, Questions
from florence.distributed.world import World
from florence.kinds import KINDS
from florence.stages.context import StageContext
from florence.stages.train import train
from tests.florence.running import EVEN, stage_context
from tests.florence.tasks.finetune.running import COLOURS, MODEL, picture, two_tower_folder

__all__ = [
    "COLOURS",
    "EVEN",
    "MODEL",
    "ask",
    "captions",
    "context",
    "picture",
    "question_files",
    "run",
    "run_on_rank",
    "settings",
    "shards_of_captions",
    "shards_of_questions",
    "two_tower_folder",
]

SMALL: dict[str, Any] = {
    "batchSize": 8,
    "resolution": 16,
    "optimizer": {"lr": 2e-3, "warmupSteps": 2},
    "checkpoints": {"everySteps": 2},
    "loader": {"workers": 0},
    "logEverySteps": 1,
    "engine": "torch",
    "textEncoder": "florence",
    "textLength": 16,
    "fusion": {"layers": 2, "width": 32, "heads": 2, "hidden": 48},
    "fusionLrScale": 1,
    "headLrScale": 1,
    "dropout": 0,
    "randAugment": {"operations": 0},
}


def settings(kind: str, data: str, **changes: Any) -> Any:
    """Small settings of a kind."""
    return KINDS[kind].settings.model_validate({"data": data, **SMALL, **changes})


def context(folder: Path, **given: Any) -> StageContext:
    """A stage's surroundings; see :func:`stage_context`."""
    return stage_context(folder, MODEL.architecture(), **given)


def run(kind: str, around: StageContext, config: Any) -> None:
    """Run a stage as a job does."""
    train(around, config, KINDS[kind])


def run_on_rank(kind: str, folder: Path, config: Any, start: Path | None = None) -> None:
    """Run a stage as one rank of a gang."""
    rank, size = dist.get_rank(), dist.get_world_size()
    run(kind, context(folder, start=start, world=World(rank, size, rank, size)), config)


def ask(number: int, colour: str) -> list[dict[str, Any]]:
    """Three questions about an image of a colour, each with ten answers."""
    asked = [
        ("what colour is it?", "what colour", "other", colour),
        ("is it red?", "is it", "yes/no", "yes" if colour == "red" else "no"),
        ("how many letters has its colour?", "how many", "number", str(len(colour))),
    ]
    return [
        {
            "question_id": 10 * number + i,
            "question": question,
            "question_type": kind,
            "answer_type": answer_type,
            "answers": [answer] * 8 + ["The Sea.", "maybe"],
        }
        for i, (question, kind, answer_type, answer) in enumerate(asked)
    ]


def question_files(folder: Path, images: int, *, start: int = 0) -> tuple[str, str]:
    """VQAv2's two files, and the images that they are about beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    questions, annotations = [], []
    for number in range(start, start + images):
        colour = list(COLOURS)[number % 3]
        (folder / f"COCO_tiny_{number:012d}.jpg").write_bytes(picture(colour, number))
        for each in ask(number, colour):
            one = {"image_id": number, "question_id": each["question_id"]}
            questions.append({**one, "question": each["question"]})
            answers = [
                {"answer": answer, "answer_confidence": "yes", "answer_id": i + 1}
                for i, answer in enumerate(each["answers"])
            ]
            annotations.append(
                {
                    **one,
                    "question_type": each["question_type"],
                    "answer_type": each["answer_type"],
                    "multiple_choice_answer": each["answers"][0],
                    "answers": answers,
                }
            )
    first, second = folder / "v2_OpenEnded_tiny_questions.json", folder / "v2_tiny_annotations.json"
    first.write_text(json.dumps({"data_subtype": "tiny", "questions": questions}))
    second.write_text(json.dumps({"data_subtype": "tiny", "annotations": annotations}))
    return str(first), str(second)


def shards_of_questions(folder: Path, images: int, *, start: int = 0) -> str:
    """Imported questions."""
    files = question_files(folder / "files", images, start=start)
    import_data(import_format("vqa"), files, str(folder / "shards"), Questions())
    return str(folder / "shards")


def captions(colour: str, number: int) -> list[str]:
    """Two captions of an image of a colour."""
    return [f"a {colour} picture", f"it is all {colour} here number {number}"]


def shards_of_captions(folder: Path, images: int, *, start: int = 0) -> str:
    """Imported captions in Karpathy's form."""
    (folder / "files").mkdir(parents=True, exist_ok=True)
    entries = []
    for number in range(start, start + images):
        colour = list(COLOURS)[number % 3]
        name = f"{number:06d}.png"
        (folder / "files" / name).write_bytes(picture(colour, number))
        sentences = [{"raw": text} for text in captions(colour, number)]
        entries.append(
            {"filename": name, "split": "train", "imgid": number, "sentences": sentences}
        )
    path = folder / "files/dataset.json"
    path.write_text(json.dumps({"images": entries}))
    import_data(import_format("karpathy"), [str(path)], str(folder / "shards"), Karpathy())
    return str(folder / "shards")
