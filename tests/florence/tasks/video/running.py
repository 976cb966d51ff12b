"""Video stages on tiny clips: a square that moves one of four ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from florence.config.model import ModelConfig
from florence.data.indexing import index_data
from florence.data.shard_writer import write_shard
from florence.data.video.files import Frame
from florence.data.video.writing import write_clip
from florence.distributed.world import World
from florence.kinds import KINDS
from florence.models.opening import open_stored
from florence.models.stored import StoredModel
from florence.stages.context import StageContext
from florence.stages.train import train
from florence.storage import open_storage
from florence.tasks.video.settings import Video
from tests.florence.running import stage_context

MODEL = ModelConfig.model_validate(
    {
        "preset": "coswin-nano",
        "image": {"width": 16, "depths": [1, 1, 1, 1]},
        "text": {"width": 32, "hidden": 64, "layers": 1},
        "embedDim": 16,
    }
)
WAYS = {"down": (2, 0), "left": (0, -2), "right": (0, 2), "up": (-2, 0)}


def moving(way: str, seed: int, count: int = 8) -> list[Frame]:
    """Frames 32 x 32 of a bright square that moves."""
    generator = np.random.default_rng(seed)
    place = generator.integers(8, 16, 2)
    colour = generator.integers(150, 256, 3)
    frames = []
    for number in range(count):
        frame = np.full((32, 32, 3), 30, np.uint8)
        top, left = (np.clip(place + number * np.array(WAYS[way]), 0, 24)).tolist()
        frame[top : top + 8, left : left + 8] = colour
        frames.append(frame)
    return frames


def clip_shards(folder: Path, each: int, start: int = 0) -> str:
    """Shards of ``each`` clips of every way, with classes and captions."""
    storage = open_storage(str(folder))
    samples = []
    for number in range(each * len(WAYS)):
        kind = number % len(WAYS)
        way = tuple(WAYS)[kind]
        data = write_clip(moving(way, start + number), rate=8, options={"crf": "10"})
        captions = [f"a square moves {way}", f"something goes {way}"]
        members = {
            "mp4": data,
            "txt": captions[0].encode(),
            "cls": str(kind).encode(),
            "json": json.dumps({"caption": captions[0], "captions": captions}).encode(),
        }
        samples.append((f"{number:05d}", members))
    write_shard(storage, "shard-000000.tar", samples)
    storage.write("classes.json", json.dumps(list(WAYS)).encode())
    index_data(str(folder))
    return str(folder)


def settings(mode: str, data: str, **changes: Any) -> Video:
    """Small settings of a mode."""
    fields: dict[str, Any] = {
        "mode": mode,
        "data": data,
        "batchSize": 8,
        "resolution": 32,
        "clip": {"frames": 4, "stride": 2},
        "tower": {"windowFrames": [2, 2, 2, 2]},
        "optimizer": {"lr": 2e-3, "warmupSteps": 2},
        "augmentation": {"flip": False, "scaleMin": 0.8},
        "checkpoints": {"everySteps": 2},
        "loader": {"workers": 0},
        "logEverySteps": 1,
        "engine": "torch",
    }
    if mode == "actions":
        fields["head"] = {"randAugment": {"operations": 0}, "towerLrScale": 1.0}
        fields["views"] = {"spans": 1, "crops": 1}
    return Video.model_validate({**fields, **changes})


def context(folder: Path, **given: Any) -> StageContext:
    """A stage's surroundings; see :func:`stage_context`."""
    return stage_context(folder, MODEL.architecture(), **given)


def run(around: StageContext, config: Video) -> None:
    """Run the stage as a job does."""
    train(around, config, KINDS["video"])


def run_on_rank(folder: Path, config: Video, start: Path | None = None) -> None:
    """Run the stage as one rank of a gang."""
    rank, size = dist.get_rank(), dist.get_world_size()
    run(context(folder, start=start, world=World(rank, size, rank, size)), config)


def stored(folder: Path) -> StoredModel:
    """The model that a stage left."""
    return open_stored(str(folder))


def metrics(folder: Path) -> dict[str, float]:
    """The results that a stage left."""
    found: dict[str, float] = json.loads((folder / "metrics.json").read_text())["metrics"]
    return found
