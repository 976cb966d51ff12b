"""Coloured rectangles on noise as a data set that can be learnt by heart."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from florence.tasks.detection.batch import DetectionBatch, Target

COLOURS = ((230, 40, 40), (40, 200, 60), (50, 80, 240))


def scene(seed: int, height: int = 96, width: int = 96) -> tuple[Tensor, Target]:
    """An image with one to three rectangles, and what is to be found."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(90, 140, (3, height, width), generator=generator, dtype=torch.uint8)
    boxes, labels = [], []
    cells = torch.randperm(4, generator=generator)[: 1 + seed % 3].tolist()
    for cell in cells:
        half = torch.tensor([width // 2, height // 2])
        corner = torch.tensor([cell % 2, cell // 2]) * half
        low = corner + torch.randint(1, 8, (2,), generator=generator)
        high = corner + half - torch.randint(1, 10, (2,), generator=generator)
        label = int(torch.randint(0, 3, (1,), generator=generator))
        (x1, y1), (x2, y2) = low.tolist(), high.tolist()
        image[:, y1:y2, x1:x2] = torch.tensor(COLOURS[label], dtype=torch.uint8)[:, None, None]
        boxes.append([x1, y1, x2, y2])
        labels.append(label)
    return image, Target.of(torch.tensor(boxes).float(), torch.tensor(labels))


def batch_of(scenes: list[tuple[Tensor, Target]]) -> DetectionBatch:
    """Scenes as a batch."""
    return DetectionBatch(
        keys=tuple(f"s/{number}" for number in range(len(scenes))),
        images=tuple(image for image, _ in scenes),
        targets=tuple(target for _, target in scenes),
    )


def picture(image: Tensor) -> Image.Image:
    """Pixels as a Pillow image."""
    return Image.fromarray(image.permute(1, 2, 0).numpy())
