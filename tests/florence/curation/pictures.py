"""Pictures with content: tiles of the two photographs in scikit-learn, and what is done to them."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images


@cache
def photographs() -> tuple[Image.Image, ...]:
    """Eight parts of photographs, 213x213 pixels or more, that have nothing in common."""
    found = []
    for photograph in load_sample_images().images:
        image = Image.fromarray(np.asarray(photograph))
        for left in (0, 213, 426):
            found.append(image.crop((left, 100, left + 213, 313)))
        found.append(image)
    return tuple(found)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The image as it looks after JPEG."""
    return Image.open(io.BytesIO(encoded(image, quality))).convert("RGB")


def encoded(image: Image.Image, quality: int | None = None) -> bytes:
    """A JPEG file, or a PNG without a quality."""
    buffer = io.BytesIO()
    if quality is None:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def cut(image: Image.Image, share: float) -> Image.Image:
    """The image without a share of its width and height on every side."""
    x, y = round(image.width * share), round(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y))


def noise(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    """Smooth noise, another for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
