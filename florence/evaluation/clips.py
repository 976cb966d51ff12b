"""Clips through a model, dealt out to the ranks: what :meth:`EvaluationContext.over_images` is for
images. All count, so a broken one is an error."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from florence.config.video import ClipSampling, Views
from florence.data.images import BrokenImageError
from florence.data.left_out import check_whole
from florence.data.shards import BrokenSampleError, Need, ShardSet
from florence.data.transforms import Pixels, eval_pixels, normalise
from florence.data.video.decoding import open_clip
from florence.data.video.files import Frame
from florence.data.video.pixels import view_clips
from florence.data.video.sampling import even_frames
from florence.data.workers import Buffer, WorkerPool
from florence.errors import DataError
from florence.evaluation.context import EvaluationContext
from florence.evaluation.models import Model, inference


class Looks(Protocol):
    """What is looked at of a video: a fixed number of inputs of a tower."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one video's pixels, the inputs first."""

    def pixels(self, data: bytes) -> tuple[Pixels, int]:
        """uint8 of :attr:`shape`, and how many inputs count; the rest fill up.

        Raises:
            BrokenClipError: the video cannot be decoded.
        """


@dataclass(frozen=True)
class ViewLooks:
    """Clips at several places and crops."""

    sampling: ClipSampling
    views: Views
    resolution: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(spans * crops, T, 3, R, R)."""
        count = self.views.spans * self.views.crops
        return count, self.sampling.frames, 3, self.resolution, self.resolution

    def pixels(self, data: bytes) -> tuple[Pixels, int]:
        """See :class:`Looks`; all count."""
        return view_clips(data, self.resolution, self.sampling, self.views), self.shape[0]


@dataclass(frozen=True)
class FrameLooks:
    """Single frames, one a second, evenly spaced where a video has more seconds than ``most``.

    Attributes:
        most: frames.
        resolution: side of their squares.
        as_clip: look at them as one clip of ``most`` frames; the last one stands at its end.
    """

    most: int
    resolution: int
    as_clip: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """(most, 3, R, R), or (1, most, 3, R, R)."""
        frames = self.most, 3, self.resolution, self.resolution
        return (1, *frames) if self.as_clip else frames

    def pixels(self, data: bytes) -> tuple[Pixels, int]:
        """See :class:`Looks`; the last frame fills up, so that ranks work in step."""
        with open_clip(data) as clip:
            numbers = even_frames(clip.times, clip.duration, per_second=1.0, most=self.most)
            frames = clip.frames(numbers.tolist())
        squares = [eval_pixels(Image.fromarray(frame), self.resolution) for frame in frames]
        fill = [squares[-1]] * (self.most - len(squares))
        pixels = np.stack([*squares, *fill]).reshape(self.shape)
        return pixels, 1 if self.as_clip else len(squares)


@dataclass(frozen=True)
class StoredClips:
    """The clips of shards; as images they are their middle frames."""

    shards: ShardSet

    def __len__(self) -> int:
        return len(self.shards)

    def media(self, i: int) -> bytes:
        """The file of clip ``i``. Raises :class:`DataError`."""
        try:
            return self.shards.read(i).media_bytes
        except BrokenSampleError as error:
            raise DataError(f"{self.shards.uri}: {error}") from error

    def broken(self, i: int, error: Exception) -> DataError:
        """What is told of a clip that cannot be decoded."""
        where = f"{self.shards.shard_of(i)}: sample {self.shards.key(i)}"
        return DataError(f"{where}: {error}: replace or remove it")

    def frames(self, i: int, count: int) -> list[Frame]:
        """Frames of clip ``i``, evenly spaced. Raises :class:`DataError`."""
        try:
            with open_clip(self.media(i)) as clip:
                places = (np.arange(count) + 0.5) / count * len(clip.times)
                return clip.frames(places.astype(int).tolist())
        except BrokenImageError as error:
            raise self.broken(i, error) from error

    def image(self, i: int) -> Image.Image:
        """The middle frame of clip ``i``."""
        return Image.fromarray(self.frames(i, 1)[0])


def open_clips(context: EvaluationContext, uri: str) -> StoredClips:
    """The clips at a URI; collective. Raises :class:`DataError` when there are none."""
    shards = ShardSet.open(uri, context.s3, need=Need.VIDEO, **context.opening)
    check_whole(shards)
    return StoredClips(shards)


@dataclass(frozen=True)
class _Maker:
    clips: StoredClips
    looks: Looks
    share: Sequence[int]

    @property
    def buffer_size(self) -> int:
        return math.prod(self.looks.shape)

    def make(self, number: int, buffer: Buffer) -> int:
        i = self.share[number]
        try:
            pixels, count = self.looks.pixels(self.clips.media(i))
        except BrokenImageError as error:
            raise self.clips.broken(i, error) from error
        buffer[: pixels.size].reshape(pixels.shape)[...] = pixels
        return count


def over_clips(
    context: EvaluationContext,
    clips: StoredClips,
    looks: Looks,
    model: Model,
    function: Callable[[Tensor], Tensor],
    reduce: Callable[[Tensor], Tensor],
) -> Tensor:
    """One row for each clip: ``(N, C)`` fp32 on every rank's CPU.

    Args:
        looks: what is looked at of each.
        model: whose mode is set and left as it was.
        function: normalised inputs, ``(n, 3, T, R, R)`` or ``(n, 3, R, R)``, to ``(n, C)``.
        reduce: a clip's rows ``(inputs, C)`` to ``(C,)``.

    Raises:
        DataError: a clip is broken; names it.
    """
    shape = looks.shape
    at_once = max(1, context.batch_size // (shape[1] if len(shape) == 5 else 1))

    def rows(share: Sequence[int]) -> Tensor:
        pool = WorkerPool(_Maker(clips, looks, share), range(len(share)), workers=context.workers)
        found = []
        try:
            with inference(model, context.precision) as device:
                for count, buffer in pool:
                    pixels = torch.from_numpy(buffer[: math.prod(shape)].reshape(shape))
                    inputs = normalise(pixels, context.card.mean, context.card.std)
                    if inputs.ndim == 5:
                        inputs = inputs.transpose(1, 2)
                    parts = torch.split(inputs.to(device), at_once)
                    outputs = torch.cat([function(part).float() for part in parts])
                    found.append(reduce(outputs[:count]).cpu())
                    context.watch(1)
        finally:
            pool.close()
        return torch.stack(found)

    return context.dealt(len(clips), rows)


def strip(
    clips: StoredClips, titles: Sequence[tuple[int, str]], *, frames: int = 8, side: int = 96
) -> bytes:
    """A picture of clips: a row of frames each, with a title over it; a PNG.

    Args:
        titles: clips by number, and what to write over each.
        frames: of each clip, evenly spaced.
        side: height of a frame in pixels.
    """
    from PIL import ImageDraw, ImageFont

    font = ImageFont.load_default(size=14)
    rows = []
    for number, title in titles:
        pictures = []
        for frame in clips.frames(number, frames):
            image = Image.fromarray(frame)
            pictures.append(image.resize((max(1, image.width * side // image.height), side)))
        row = Image.new("RGB", (sum(p.width + 4 for p in pictures), side + 26), "white")
        ImageDraw.Draw(row).text((2, 4), title, fill="black", font=font)
        left = 0
        for picture in pictures:
            row.paste(picture, (left, 24))
            left += picture.width + 4
        rows.append(row)
    whole = Image.new("RGB", (max(r.width for r in rows), sum(r.height for r in rows)), "white")
    top = 0
    for row in rows:
        whole.paste(row, (0, top))
        top += row.height
    buffer = io.BytesIO()
    whole.save(buffer, "PNG")
    return buffer.getvalue()
