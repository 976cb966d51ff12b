"""Detection stages on tiny scenes, as tests of every part run them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch.distributed as dist

from florence.data.boxes import AnnotatedImage, Annotation
from florence.data.vocabularies import NAME, Vocabulary, vocabularies_bytes
from florence.distributed.world import World
from florence.kinds import KINDS
from florence.stages.context import StageContext
from florence.stages.train import train
from florence.tasks.detection.settings import Detection
from tests.florence.data.making import write_samples
from tests.florence.running import stage_context
from tests.florence.tasks.detection.scenes import picture, scene
from tests.florence.tasks.finetune.running import MODEL

CLASSES = ("red", "green", "blue")
ATTRIBUTES = ("plain", "wide")
"""The first is said of every object, the second of those wider than 20 pixels."""
SIZES = ((64, 64), (64, 64), (48, 80), (64, 40))


def scene_shards(folder: Path, count: int, *, start: int = 0, empty: int | None = None) -> str:
    """Scenes of some sizes as shards with boxes; the one numbered ``empty`` has no box."""
    samples = []
    for number in range(start, start + count):
        height, width = SIZES[number % len(SIZES)]
        image, target = scene(number, height, width)
        boxes = [
            Annotation(
                bbox=(x1, y1, x2 - x1, y2 - y1),
                category=CLASSES[label],
                attributes=ATTRIBUTES[: 1 + (x2 - x1 > 20)],
            )
            for (x1, y1, x2, y2), label in zip(
                target.boxes.tolist(), target.labels.tolist(), strict=True
            )
        ]
        record = AnnotatedImage(
            image_id=number,
            width=width,
            height=height,
            source="scenes",
            boxes=() if number == empty else tuple(boxes),
        )
        buffer = io.BytesIO()
        picture(image).save(buffer, "PNG")
        meta = json.dumps(record.wire()).encode()
        samples.append((f"{number:04d}", {"png": buffer.getvalue(), "json": meta}))
    folder.mkdir(parents=True, exist_ok=True)
    write_samples(folder / "0.tar", samples)
    (folder / NAME).write_bytes(vocabularies_bytes({"scenes": Vocabulary(CLASSES)}))
    return str(folder)


def settings(data: str, **changes: Any) -> Detection:
    """Small settings."""
    fields: dict[str, Any] = {
        "data": data,
        "batchSize": 4,
        "resolution": 64,
        "head": {"channels": 16, "blocks": 1, "groups": 4, "coarsestStride": 64},
        "boxes": {"shortSideMin": 48, "shortSideMax": 64, "maxSide": 96},
        "optimizer": {"lr": 1e-3, "warmupSteps": 2},
        "checkpoints": {"everySteps": 2},
        "loader": {"workers": 0},
        "logEverySteps": 1,
        "engine": "torch",
    }
    return Detection.model_validate({**fields, **changes})


def context(folder: Path, **given: Any) -> StageContext:
    """A stage's surroundings; see :func:`stage_context`."""
    return stage_context(folder, MODEL.architecture(), **given)


def run(around: StageContext, config: Detection) -> None:
    """Run the stage as a job does."""
    train(around, config, KINDS["detection"])


def run_on_rank(folder: Path, config: Detection, start: Path | None = None) -> None:
    """Run the stage as one rank of a gang."""
    rank, size = dist.get_rank(), dist.get_world_size()
    run(context(folder, start=start, world=World(rank, size, rank, size)), config)
