"""Looking at images with a detector: at one size or several, mirrored too where it is asked for."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from florence.config.detection import Inference
from florence.data.transforms import normalise
from florence.tasks.detection.anchors import levels_of
from florence.tasks.detection.decode import Detections, candidates, joined, suppressed
from florence.tasks.detection.detector import Detector
from florence.tasks.detection.padding import Group, Triple, padded_size, stacked


def resized(image: Image.Image, short_side: int, long_side: int) -> Image.Image:
    """The image with this short side, or with this long side where that makes it smaller."""
    width, height = image.size
    scale = min(short_side / min(width, height), long_side / max(width, height))
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return image if size == image.size else image.resize(size, Image.Resampling.BILINEAR)


class Look:
    """A detector and how its predictions become boxes.

    Args:
        model: in evaluation mode.
        mean, std: of the channels in [0, 1].
        short_side: of an image, where the settings name none.
        settings: everything else.
    """

    def __init__(
        self, model: Detector, mean: Triple, std: Triple, short_side: int, settings: Inference
    ) -> None:
        self._model = model
        self._mean, self._std = mean, std
        self._short_sides = settings.short_sides or (short_side,)
        self._long_side = settings.long_side or model.shape.long_side
        self._settings = settings

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self._model.parameters()).device

    def found(self, image: Image.Image) -> Detections:
        """Boxes of one image in its own pixels, on the model's device, best first."""
        return suppressed(self.raw(image), self._settings)

    def raw(self, image: Image.Image) -> Detections:
        """Boxes of one image before suppression, those of all sizes and of its mirror image."""
        looks = []
        for short_side in self._short_sides:
            pixels = self._pixels(image, short_side)
            looks.append(self._once(pixels, image))
            if self._settings.flip:
                mirrored = self._once(pixels.flip(-1), image)
                looks.append(mirrored.mirrored(image.width))
        return joined(looks)

    def _pixels(self, image: Image.Image, short_side: int) -> Tensor:
        made = np.array(resized(image, short_side, self._long_side).convert("RGB"))
        return torch.from_numpy(made).permute(2, 0, 1).contiguous().to(self.device)

    def _once(self, pixels: Tensor, image: Image.Image) -> Detections:
        height, width = pixels.shape[-2:]
        group = Group((0,), padded_size(height, width))
        batch = stacked([pixels], group, self._mean, self._std)
        logits, deltas, centerness = self._model([batch])
        levels = levels_of(*group.size, self._model.shape.strides)
        found = candidates(logits[0], deltas[0], centerness[0], levels, self._settings)
        return found.on_image(height / image.height, width / image.width, image.height, image.width)


def crops(
    image: Image.Image, boxes: Tensor, *, context: float, resolution: int, mean: Triple, std: Triple
) -> Tensor:
    """What is in boxes of an image, as a classifier sees images: fp32 ``(N, 3, R, R)`` on the CPU.

    A crop is the square around its box, cut off at the image's borders and then stretched to a
    square; the box is not stretched by itself, so that things keep their proportions inside.

    Args:
        boxes: ``(N, 4)``.
        context: side of the square over the box's longer side.
        resolution: R.
        mean, std: of the channels in [0, 1].
    """
    made = np.empty((len(boxes), resolution, resolution, 3), np.uint8)
    for row, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        half = max(x2 - x1, y2 - y1, 1.0) * context / 2
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        window = (
            max(round(x - half), 0),
            max(round(y - half), 0),
            min(round(x + half), image.width),
            min(round(y + half), image.height),
        )
        window = (*window[:2], max(window[2], window[0] + 1), max(window[3], window[1] + 1))
        made[row] = np.asarray(
            image.crop(window).resize((resolution, resolution), Image.Resampling.BICUBIC)
        )
    pixels = torch.from_numpy(made).permute(0, 3, 1, 2)
    return normalise(pixels.contiguous(), mean, std)
