"""The two-tower model that tests of using one share, built once a process, and pictures for it.

Nobody may change it: whoever trains, or switches modes, builds one of their own.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from florence.config import architecture_of
from florence.models.stored import ModelCard, model_bytes
from florence.models.two_tower import TwoTower, build_model
from florence.text.templates import DIGITS

NANO = architecture_of("coswin-nano")
CARD = ModelCard(
    task="contrastive",
    architecture=NANO,
    window=4,
    resolution=32,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
DIGITS_CARD = CARD.model_copy(update={"templates": DIGITS})
"""The same model, as if it had been trained with the templates of digits."""


@cache
def network() -> TwoTower:
    """The model, in evaluation mode."""
    return build_model(NANO, seed=0).eval()


def model_files(card: ModelCard = CARD) -> dict[str, bytes]:
    """The contents of the model's files, by name."""
    return model_bytes(network().state_dict(), card)


def save(folder: Path, card: ModelCard = CARD) -> Path:
    """Write the model's files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in model_files(card).items():
        (folder / name).write_bytes(content)
    return folder


def picture(seed: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """Coloured noise; ``size`` is width and height."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def embedded(images: list[Image.Image]) -> torch.Tensor:
    """Embeddings of pictures of the model's own size, from their pixels and the model alone."""
    rows = [torch.from_numpy(np.array(image, np.float32) / 255 - 0.5) / 0.5 for image in images]
    with torch.no_grad():
        return network().encode_image(torch.stack(rows).permute(0, 3, 1, 2))
