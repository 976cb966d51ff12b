"""Training images: mirrored, scaled, cropped, and put together; boxes follow the pixels.

Every function is pure: what is random comes from a stream of numbers that is a function of the
sample, the epoch and the seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from florence.data.images import load_image
from florence.tasks.detection.augmentation import DetectionAugmentation
from florence.tasks.detection.objects import Objects, joined

Canvas = NDArray[np.uint8]
FILL = 114
"""Grey of what no image covers: near the mean of photographs, so that an edge is no signal."""
LEAST_SIDE = 1.0
"""Pixels that a box must be wide and high to be learnt from."""


@dataclass(frozen=True)
class Scene:
    """An image and the objects in it: uint8 pixels ``(H, W, 3)``."""

    pixels: Canvas
    objects: Objects


@dataclass(frozen=True)
class View:
    """A region of an image, drawn at another size and perhaps mirrored.

    Attributes:
        size: (width, height) of the result in pixels.
        region: left, top, right, bottom in pixels of the image.
        mirrored: left to right.
    """

    size: tuple[int, int]
    region: tuple[float, float, float, float]
    mirrored: bool = False

    def boxes(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Where boxes ``(N, 4)`` of the image lie in the result, also those outside of it."""
        left, top, right, bottom = self.region
        scale_x, scale_y = self.size[0] / (right - left), self.size[1] / (bottom - top)
        moved = (boxes - np.array([left, top, left, top])) * ([scale_x, scale_y] * 2)
        if self.mirrored:
            moved[:, [0, 2]] = self.size[0] - moved[:, [2, 0]]
        return np.asarray(moved, np.float32)


def fitted_size(width: int, height: int, short: int, longest: int) -> tuple[int, int]:
    """The size with this short side, or smaller so that the long side is at most ``longest``."""
    scale = min(short / min(width, height), longest / max(width, height))
    return (
        min(max(1, round(width * scale)), longest),
        min(max(1, round(height * scale)), longest),
    )


def draw_view(
    width: int, height: int, augmentation: DetectionAugmentation, draw: Iterator[float]
) -> View:
    """A random view of an image of this size."""
    mirrored = next(draw) < augmentation.flip
    jitter = augmentation.large_scale_jitter
    if jitter is None:
        low, high = augmentation.short_side_min, augmentation.short_side_max
        short = low + int(next(draw) * (high - low + 1))
        size = fitted_size(width, height, short, augmentation.max_side)
        return View(size, (0.0, 0.0, float(width), float(height)), mirrored)
    part = jitter.scale_min + next(draw) * (jitter.scale_max - jitter.scale_min)
    scale = part * jitter.side / max(width, height)
    crop_width, crop_height = (min(jitter.side / scale, side) for side in (width, height))
    left, top = next(draw) * (width - crop_width), next(draw) * (height - crop_height)
    drawn = [max(1, min(jitter.side, round(s * scale))) for s in (crop_width, crop_height)]
    return View((drawn[0], drawn[1]), (left, top, left + crop_width, top + crop_height), mirrored)


def viewed(image: Image.Image, objects: Objects, view: View, *, min_visible: float = 0.0) -> Scene:
    """A view of an opened image with its objects. Raises ``BrokenImageError`` of a broken file."""
    return Scene(view_pixels(image, view), cropped(objects, view, min_visible=min_visible))


def view_pixels(image: Image.Image, view: View) -> Canvas:
    """The pixels of a view of an image from :func:`florence.data.images.open_image`, ``(H, W, 3)``.

    Raises ``BrokenImageError`` of a broken file.
    """
    width, height = image.size
    left, top, right, bottom = view.region
    scale = max(view.size[0] / (right - left), view.size[1] / (bottom - top))
    # A JPEG may be decoded at half its size and so on, as long as that has every pixel needed.
    image = load_image(image, (math.ceil(width * scale), math.ceil(height * scale)))
    x, y = image.width / width, image.height / height
    box = (left * x, top * y, min(right * x, image.width), min(bottom * y, image.height))
    if box != (0, 0, *image.size):
        image = image.resize(view.size, Image.Resampling.BILINEAR, box=box)
    if view.mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image, np.uint8) if image.size == view.size else _resized(image, view.size)


def _resized(image: Image.Image, size: tuple[int, int]) -> Canvas:
    """The pixels of a whole image at another (width, height).

    By torch's resampling of bytes, which equals Pillow's to one level and takes a quarter of its
    time.
    """
    planes = torch.from_numpy(np.array(image, np.uint8))[None].permute(0, 3, 1, 2)
    made = F.interpolate(planes, size=size[::-1], mode="bilinear", antialias=True)
    return np.asarray(made[0].permute(1, 2, 0).numpy())


def cropped(objects: Objects, view: View, *, min_visible: float = 0.0) -> Objects:
    """Objects as a view shows them; those that it hardly shows are dropped."""
    boxes = view.boxes(objects.boxes)
    return _inside(
        objects, boxes, (0.0, 0.0, float(view.size[0]), float(view.size[1])), min_visible
    )


def _inside(
    objects: Objects,
    boxes: NDArray[np.float32],
    region: tuple[float, float, float, float],
    min_visible: float,
) -> Objects:
    left, top, right, bottom = region
    cut = np.clip(boxes, [left, top, left, top], [right, bottom, right, bottom])
    cut = cut.astype(np.float32)
    sides = cut[:, 2:] - cut[:, :2]
    before = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-6).prod(axis=1)
    kept = (sides >= LEAST_SIDE).all(axis=1) & (sides.prod(axis=1) >= min_visible * before)
    return objects.take(kept, cut)


def mosaic(scenes: Sequence[Scene], draw: Iterator[float], *, min_visible: float = 0.0) -> Scene:
    """Four scenes around a random point, on a canvas of the first one's size.

    Each shows the corner that it turns to the point (YOLOv4, arXiv 2004.10934, 3.4).
    """
    height, width = scenes[0].pixels.shape[:2]
    across, down = (round((0.25 + 0.5 * next(draw)) * side) for side in (width, height))
    canvas = np.full((height, width, 3), FILL, np.uint8)
    parts = []
    for number, scene in enumerate(scenes):
        on_right, below = number % 2, number // 2
        h, w = scene.pixels.shape[:2]
        # Where the scene's upper left corner would come to lie on the canvas.
        x, y = (across if on_right else across - w), (down if below else down - h)
        left, right = (max(across, x), min(width, x + w)) if on_right else (max(0, x), across)
        top, bottom = (max(down, y), min(height, y + h)) if below else (max(0, y), down)
        canvas[top:bottom, left:right] = scene.pixels[top - y : bottom - y, left - x : right - x]
        moved = scene.objects.moved(x, y)
        region = (float(left), float(top), float(right), float(bottom))
        parts.append(_inside(moved, moved.boxes, region, min_visible))
    return Scene(canvas, joined(parts))


def mixup(one: Scene, other: Scene, share: float) -> Scene:
    """Two scenes blended; the objects' scores become the shares (arXiv 1902.04103, 3.1).

    Args:
        share: of the first, in [0, 1].
    """
    height, width = np.maximum(one.pixels.shape[:2], other.pixels.shape[:2])
    blend = np.full((height, width, 3), FILL, np.float32)
    for scene, part in ((one, share), (other, 1 - share)):
        h, w = scene.pixels.shape[:2]
        blend[:h, :w] += part * (scene.pixels.astype(np.float32) - FILL)
    objects = joined([one.objects.scored(share), other.objects.scored(1 - share)])
    return Scene(np.clip(np.rint(blend), 0, 255).astype(np.uint8), objects)


def copy_paste(
    one: Scene, other: Scene, draw: Iterator[float], *, min_visible: float = 0.0
) -> Scene:
    """Objects of the other scene pasted into the first, by their boxes (arXiv 2012.07177, 3).

    About half of them are drawn, each to a random place where it fits. What they cover too much
    of is dropped.
    """
    pixels, objects = one.pixels.copy(), one.objects
    height, width = pixels.shape[:2]
    for row in range(len(other.objects)):
        wanted, across, down = next(draw) < 0.5, next(draw), next(draw)
        box = other.objects.boxes[row]
        left, top = np.floor(box[:2]).astype(int).tolist()
        right, bottom = np.ceil(box[2:]).astype(int).tolist()
        h, w = other.pixels.shape[:2]
        right, bottom = min(right, w), min(bottom, h)
        if not wanted or other.objects.crowd[row] or right - left > width or bottom - top > height:
            continue
        x, y = int(across * (width - (right - left) + 1)), int(down * (height - (bottom - top) + 1))
        pasted = other.objects.take(np.array([row])).moved(x - left, y - top)
        pixels[y : y + bottom - top, x : x + right - left] = other.pixels[top:bottom, left:right]
        objects = joined([_uncovered(objects, pasted.boxes[0], min_visible), pasted])
    return Scene(pixels, replace(objects, boxes=objects.boxes.astype(np.float32)))


def _uncovered(objects: Objects, over: NDArray[np.float32], min_visible: float) -> Objects:
    """The objects of which enough is left when something lies over them."""
    low, high = (
        np.maximum(objects.boxes[:, :2], over[:2]),
        np.minimum(objects.boxes[:, 2:], over[2:]),
    )
    covered = np.maximum(high - low, 0).prod(axis=1)
    whole = (objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(axis=1)
    left = 1 - covered / np.maximum(whole, 1e-6)
    return objects.take(left > max(min_visible, 1e-6))
