"""Fine-tuning stages on tiny data, as tests of every mode run them."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from PIL import Image

from florence.config import ModelConfig
from florence.config.progress import StageProgress
from florence.config.storage import S3Settings
from florence.distributed.world import World
from florence.kinds import KINDS
from florence.models.card import ModelCard
from florence.models.opening import open_stored
from florence.models.stored import StoredModel, save_model
from florence.models.two_tower import build_model
from florence.stages.context import InputModel, StageContext, Stop
from florence.storage import open_storage
from florence.tasks.finetune.settings import Finetune
from florence.tasks.finetune.stage import finetune

MODEL = ModelConfig.model_validate(
    {
        "preset": "coswin-nano",
        "image": {"width": 16, "depths": [1, 1, 1, 1]},
        "text": {"width": 32, "hidden": 64, "layers": 1},
        "embedDim": 16,
    }
)
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 220)}
NAMES = tuple(sorted(COLOURS))


def picture(colour: str, seed: int, side: int = 20) -> bytes:
    """A noisy PNG of one colour."""
    noise = np.random.default_rng(seed).integers(-30, 31, (side, side, 3))
    pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def class_folders(folder: Path, each: int, start: int = 0) -> str:
    """``each`` images of every colour, in a folder of its name."""
    for number, colour in enumerate(COLOURS):
        (folder / colour).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            seed = start + 1000 * number + i
            (folder / colour / f"{i:03d}.png").write_bytes(picture(colour, seed))
    return str(folder)


def prompts_file(path: Path, classes: Sequence[str] = NAMES) -> str:
    """Prompts with the colours' names."""
    templates = ["a {} picture", "something {}"]
    path.write_text(json.dumps({"classes": list(classes), "templates": templates}))
    return str(path)


class Recording:
    """A recorder that remembers."""

    run_id = None

    def __init__(self) -> None:
        self.values: dict[int, Mapping[str, float]] = {}
        self.tables: dict[str, Sequence[Mapping[str, Any]]] = {}
        self.files: Mapping[str, bytes] = {}

    def parameters(self, parameters: Mapping[str, Any]) -> None: ...

    def dataset(self, uri: str, fingerprint: str, samples: int, context: str) -> None: ...

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self.values[step] = {**self.values.get(step, {}), **metrics}

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self.tables[name] = rows

    def picture(self, name: str, png: bytes) -> None: ...

    def evaluated(self, uri: str, metrics: Any) -> None: ...

    def checkpoint(self, uri: str, step: int, metrics: Mapping[str, float]) -> None: ...

    def model(self, files: Mapping[str, bytes], uri: str) -> None:
        self.files = files


def settings(mode: str, data: str, **changes: Any) -> Finetune:
    """Small settings of a mode."""
    fields: dict[str, Any] = {
        "mode": mode,
        "data": data,
        "batchSize": 12,
        "resolution": 16,
        "optimizer": {"lr": 2e-3, "warmupSteps": 2},
        "checkpoints": {"everySteps": 2},
        "loader": {"workers": 0},
        "logEverySteps": 1,
        "engine": "torch",
    }
    return Finetune.model_validate({**fields, **changes})


def context(
    folder: Path,
    *,
    attempt: int = 1,
    start: Path | None = None,
    world: World | None = None,
    report: Callable[[StageProgress], None] = lambda progress: None,
    stop: Stop | None = None,
) -> StageContext:
    """A stage's surroundings, with artifacts in a folder."""
    return StageContext(
        architecture=MODEL.architecture(),
        output=open_storage(str(folder)),
        input_model=InputModel(str(start), S3Settings()) if start else None,
        s3=S3Settings(),
        attempt=attempt,
        provenance={"job": "test", "stage": "tuned"},
        world=world or World(),
        recorder=Recording(),
        report=report,
        clock=time.time,
        stop=stop or Stop(),
    )


def run(around: StageContext, config: Finetune) -> None:
    """Run the stage as a job does."""
    finetune(around, config, KINDS["finetune"])


def run_on_rank(folder: Path, config: Finetune, start: Path | None = None) -> None:
    """Run the stage as one rank of a gang."""
    rank, size = dist.get_rank(), dist.get_world_size()
    run(context(folder, start=start, world=World(rank, size, rank, size)), config)


def two_tower_folder(folder: Path, seed: int = 3) -> Path:
    """An untrained model of both towers, as a stage would start from."""
    architecture = MODEL.architecture()
    card = ModelCard(
        task="contrastive",
        architecture=architecture,
        window=architecture.image.window,
        resolution=16,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
        templates=("a photo of a {}",),
    )
    save_model(folder, build_model(architecture, seed=seed), card)
    return folder


def stored(folder: Path) -> StoredModel:
    """The model that a stage left."""
    return open_stored(str(folder))


def metrics(folder: Path) -> dict[str, float]:
    """The results that a stage left."""
    found: dict[str, float] = json.loads((folder / "metrics.json").read_text())["metrics"]
    return found
