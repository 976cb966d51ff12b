"""From an image to the model's input: random crops for training, a central one for evaluation.

All randomness comes from one integer per sample, so that a sample's crop does not depend on which
process makes it or on what was made before. Pixels stay uint8 until a whole batch is normalised: a
quarter of the bytes to pass between processes and to a GPU.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from florence.config import Augmentation
from florence.data.hashing import uniforms
from florence.data.images import load_image, open_image

if TYPE_CHECKING:
    import torch

Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]
_CROP_ATTEMPTS = 10
_MOST_RATIO = 16
_HUGE_PAGE = 2 << 20


def random_box(width: int, height: int, augmentation: Augmentation, draw: Iterator[float]) -> Box:
    """A random (left, top, right, bottom) of the wanted share of area and aspect ratio.

    When ten attempts do not fit into the image, the largest central box of an allowed ratio.
    """
    a = augmentation
    log_min, log_max = math.log(a.ratio_min), math.log(a.ratio_max)
    for _ in range(_CROP_ATTEMPTS):
        area = width * height * (a.scale_min + (a.scale_max - a.scale_min) * next(draw))
        ratio = math.exp(log_min + (log_max - log_min) * next(draw))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        x, y = next(draw), next(draw)
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return left, top, left + w, top + h
    ratio = min(max(width / height, a.ratio_min), a.ratio_max)
    w = max(1, min(width, round(height * ratio)))
    h = max(1, min(height, round(width / ratio)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def train_pixels(data: bytes, resolution: int, augmentation: Augmentation, key: int) -> Pixels:
    """Decode, crop, perhaps rotate and mirror: uint8 ``(3, resolution, resolution)``.

    A pure function of its arguments. Raises :class:`~florence.data.images.BrokenImageError`.
    """
    draw = uniforms(key)
    image = open_image(data)
    width, height = image.size
    box = random_box(width, height, augmentation, draw)
    turn, mirror = (2 * next(draw) - 1) * augmentation.rotation, next(draw) < 0.5
    # The smallest size of the whole image at which the crop still has the resolution's pixels.
    shrink = resolution / min(box[2] - box[0], box[3] - box[1])
    image = load_image(image, (math.ceil(width * shrink), math.ceil(height * shrink)))
    if image.size != (width, height):
        x, y = image.width / width, image.height / height
        box = (box[0] * x, box[1] * y, box[2] * x, box[3] * y)
    image = image.resize((resolution, resolution), Image.Resampling.BICUBIC, box=box)
    if turn:
        image = rotate(image, turn)
    if augmentation.flip and mirror:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return as_pixels(image)


def rotate(image: Image.Image, degrees: float) -> Image.Image:
    """Rotate about the centre, counter-clockwise; what comes in from outside repeats the edge."""
    side = max(image.size)
    margin = math.ceil(side * (math.sqrt(2) - 1) / 2) + 1
    padded = np.pad(np.asarray(image), ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    turned = Image.fromarray(padded).rotate(degrees, Image.Resampling.BICUBIC)
    return turned.crop((margin, margin, margin + image.width, margin + image.height))


def eval_pixels(image: Image.Image, resolution: int) -> Pixels:
    """Short side to ``resolution`` (bicubic), then the central square: uint8 ``(3, R, R)``."""
    image = _without_far_ends(image)
    width, height = image.size
    scale = resolution / min(width, height)
    width, height = max(resolution, round(width * scale)), max(resolution, round(height * scale))
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - resolution) // 2, (height - resolution) // 2
    return as_pixels(image.crop((left, top, left + resolution, top + resolution)))


def _without_far_ends(image: Image.Image) -> Image.Image:
    """The middle of a strip: one of 1 x 67 million pixels would be resized to R x 67 million R."""
    width, height = image.size
    most = _MOST_RATIO * min(width, height)
    if max(width, height) <= most:
        return image
    left, top = max(0, (width - most) // 2), max(0, (height - most) // 2)
    return image.crop((left, top, left + min(width, most), top + min(height, most)))


def as_pixels(image: Image.Image) -> Pixels:
    """An RGB image as uint8 ``(3, height, width)``."""
    return np.ascontiguousarray(np.asarray(image, np.uint8).transpose(2, 0, 1))


def normalise(
    pixels: torch.Tensor,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> torch.Tensor:
    """uint8 ``(…, 3, H, W)`` as float32: ``(pixels / 255 - mean) / std`` by channel."""
    import torch

    scale = 1 / (255 * torch.tensor(std, dtype=torch.float64))
    shift = -torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
    scale, shift = (t.to(pixels.device, torch.float32)[:, None, None] for t in (scale, shift))
    if pixels.device.type == "cpu":
        return empty_images(pixels.shape).copy_(pixels).mul_(scale).add_(shift)
    return pixels.float().mul_(scale).add_(shift)


def empty_images(shape: torch.Size) -> torch.Tensor:
    """An uninitialised float32 tensor on the CPU, in huge pages where the system has them.

    A batch is too large for malloc to keep, so each one's pages are new to the process: 4 KiB at a
    time that took three times as long as the arithmetic.
    """
    import torch

    size = shape.numel() * torch.float32.itemsize
    if size < _HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # the kernel has none; small pages do as well
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).view(shape)


def eval_transform(
    resolution: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Callable[[Image.Image], torch.Tensor]:
    """What evaluation does to one RGB image: float32 ``(3, resolution, resolution)``."""

    def transform(image: Image.Image) -> torch.Tensor:
        import torch

        return normalise(torch.from_numpy(eval_pixels(image, resolution)), mean, std)

    return transform
