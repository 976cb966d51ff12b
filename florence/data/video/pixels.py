"""From a video to a tower's input: one clip for training, several views for evaluation.

Every frame of a clip is cropped, mirrored and changed alike. All randomness comes from integers, so
that a clip is a pure function of its bytes and of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image

from florence.config import Augmentation
from florence.config.video import ClipSampling, Views
from florence.data.hashing import uniforms
from florence.data.rand_augment import rand_augment
from florence.data.transforms import Pixels, as_pixels, random_box, rotate
from florence.data.video.decoding import open_clip
from florence.data.video.files import ClipFile, ClipLimits, Frame
from florence.data.video.sampling import even_spans, random_span, resampled


def train_clip(
    data: bytes,
    resolution: int,
    sampling: ClipSampling,
    augmentation: Augmentation,
    *,
    span: int,
    crop: int,
) -> Pixels:
    """A random span of a video, randomly cropped: uint8 ``(T, 3, resolution, resolution)``.

    Args:
        data: the file.
        span, crop: 64 random bits each, for the span and for the crop.

    Raises:
        BrokenClipError: it cannot be decoded.
    """
    with open_clip(data) as clip:
        usable = resampled(clip.times, clip.duration, sampling.frame_rate)
        numbers = usable[random_span(len(usable), sampling, span)]
        frames = clip.frames(numbers.tolist())
    height, width = frames[0].shape[:2]
    draw = uniforms(crop)
    box = random_box(width, height, augmentation, draw)
    turn, mirror = (2 * next(draw) - 1) * augmentation.rotation, next(draw) < 0.5

    def cropped(frame: Frame) -> Pixels:
        image = Image.fromarray(frame).resize(
            (resolution, resolution), Image.Resampling.BICUBIC, box=box
        )
        if turn:
            image = rotate(image, turn)
        if augmentation.flip and mirror:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return as_pixels(image)

    return _each(frames, cropped)


def augmented(clip: Pixels, *, operations: int, magnitude: float, number: int) -> Pixels:
    """RandAugment with the same operations on every frame of ``(T, 3, R, R)``."""
    if not operations:
        return clip

    def changed(frame: Pixels) -> Pixels:
        image = Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0)))
        draw: Iterator[float] = uniforms(number)
        return as_pixels(rand_augment(image, operations=operations, magnitude=magnitude, draw=draw))

    return np.stack([changed(frame) for frame in clip])


def view_clips(
    data: bytes,
    resolution: int,
    sampling: ClipSampling,
    views: Views,
    limits: ClipLimits | None = None,
) -> Pixels:
    """All views of a video, span by span: uint8 ``(spans * crops, T, 3, R, R)``.

    A frame that several views have is decoded once.

    Raises:
        BrokenClipError: it cannot be decoded, or is beyond the limits.
    """
    with open_clip(data, limits) as clip:
        return spans_of(clip, resolution, sampling, views)


def spans_of(
    clip: ClipFile,
    resolution: int,
    sampling: ClipSampling,
    views: Views,
    between: tuple[float, float] | None = None,
) -> Pixels:
    """:func:`view_clips` of an open video, or of a part of it.

    Args:
        between: seconds from which and before which frames are taken; at least one is.
    """
    usable = resampled(clip.times, clip.duration, sampling.frame_rate)
    if between is not None:
        shown = clip.times[usable]
        inside = (shown >= between[0] - 1e-6) & (shown < between[1] - 1e-6)
        usable = usable[inside] if inside.any() else usable[[np.abs(shown - between[0]).argmin()]]
    spans = usable[even_spans(len(usable), sampling, views.spans)]
    wanted = np.unique(spans)
    squares = {
        number: crops_of(frame, resolution, views.crops)
        for number, frame in zip(wanted.tolist(), clip.frames(wanted.tolist()), strict=True)
    }
    return np.stack(
        [
            np.stack([squares[number][crop] for number in span])
            for span in spans.tolist()
            for crop in range(views.crops)
        ]
    )


def crops_of(frame: Frame, resolution: int, crops: int) -> list[Pixels]:
    """Squares of a frame whose short side is ``resolution``: both ends and the middle, or that."""
    height, width = frame.shape[:2]
    scale = resolution / min(width, height)
    width, height = max(resolution, round(width * scale)), max(resolution, round(height * scale))
    image = Image.fromarray(frame)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    squares = []
    for number in (0, 1, 2) if crops == 3 else (1,):
        left, top = number * (width - resolution) // 2, number * (height - resolution) // 2
        squares.append(as_pixels(image.crop((left, top, left + resolution, top + resolution))))
    return squares


def _each(frames: Sequence[Frame], change: Callable[[Frame], Pixels]) -> Pixels:
    """Frames changed one by one; one that comes several times is changed once."""
    made: dict[int, Pixels] = {}
    for frame in frames:
        if id(frame) not in made:
            made[id(frame)] = change(frame)
    return np.stack([made[id(frame)] for frame in frames])
