"""Drawings of three shapes, a model with a head for them, and files that hold them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from florence.config import Evaluate, architecture_of
from florence.evaluation.models import ModelCard

SIZE = 32
CLASSES = ("disc", "ring", "square")
TEMPLATES = ("{}", "a drawing of a {}", "the {} in grey")
MEAN = (0.5, 0.5, 0.5)


def drawing(kind: str, seed: int) -> Image.Image:
    rng = np.random.default_rng([seed, len(kind)])
    image = Image.new("RGB", (SIZE, SIZE), (0, 0, 0))
    left, top = (int(n) for n in rng.integers(2, 12, 2))
    box = (left, top, left + 18, top + 18)
    draw = ImageDraw.Draw(image)
    if kind == "square":
        draw.rectangle(box, outline=(250, 250, 250), fill=(120, 20, 20))
    else:
        draw.ellipse(box, outline=(250, 250, 250), fill=(200, 200, 200) if kind == "disc" else None)
    return image


def write_shapes(root: Path) -> None:
    """Class folders, a folder with captions, a Karpathy json and prompts."""
    for split, count, offset in (("train", 12, 0), ("test", 5, 100)):
        for kind in CLASSES:
            (root / split / kind).mkdir(parents=True)
            for n in range(count):
                drawing(kind, offset + n).save(root / split / kind / f"{n:02}.png")
    flat, images = root / "flat", []
    flat.mkdir()
    for n in range(7):
        drawing(CLASSES[n % 3], 200 + n).save(flat / f"{n}.png")
        captions = [f"drawing {n} of a {CLASSES[n % 3]}", f"picture number {n}", f"{n} and {n}"]
        (flat / f"{n}.txt").write_text("\n".join(captions))
        images.append(
            {
                "filename": f"{n}.png",
                "split": "test" if n != 3 else "val",
                "sentences": [{"raw": caption} for caption in captions],
            }
        )
    (flat / "dataset.json").write_text(json.dumps({"images": images}))
    prompts = (
        "classes: [disc, ring, square]\ntemplates: ['{}', 'a drawing of a {}', 'the {} in grey']"
    )
    (root / "prompts.yaml").write_text(prompts)


class Head(nn.Module):
    """A tower and a head; dropout, norms with statistics and hooks are what a training has on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, stride=3)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.drop(torch.relu(self.norm(self.conv(images)))).mean((2, 3)))


def card() -> ModelCard:
    return ModelCard(
        task="contrastive",
        architecture=architecture_of("coswin-nano"),
        window=4,
        resolution=SIZE,
        mean=MEAN,
        std=MEAN,
    )


def with_head(root: Path, **more: Any) -> Evaluate:
    task = {
        "name": "shapes",
        "data": str(root / "test"),
        "labels": str(root / "prompts.yaml"),
        **more,
    }
    return Evaluate.model_validate({"classification": [task], "batchSize": 4, "workers": 0})


def write_shard(path: Path, samples: list[dict[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for number, members in enumerate(samples):
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{number:04}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def png(kind: str, seed: int) -> bytes:
    buffer = io.BytesIO()
    drawing(kind, seed).save(buffer, format="PNG")
    return buffer.getvalue()
