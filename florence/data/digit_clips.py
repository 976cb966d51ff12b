"""Clips of the scanned digits in motion: eight actions, and pairs of digits with captions.

Every clip is a pure function of the scans, its split and its number. Scans of training and test
clips were written by different people, as those of :mod:`florence.data.digits`.

In the middle of a clip of actions, digits of every class stand, are turned and are as large as
those of any other: a single frame does not tell what happens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from florence.config.storage import S3Settings
from florence.data.digits import TRAIN_COUNT, WORDS, scanned_digits
from florence.data.hashing import mix, permutation, uniforms
from florence.data.indexing import index_data
from florence.data.manifest import CLASSES
from florence.data.ordered_map import map_in_threads
from florence.data.shard_writer import write_shard
from florence.storage import open_storage

ACTIONS = ("left", "right", "up", "down", "rotate", "grow", "shrink", "still")
"""The classes of motion, in the order of their numbers."""
ACTION_COUNTS = {"train": 1_600, "test": 400}
PAIR_COUNTS = {"train": 2_400, "test": 100}
FRAMES, RATE, SIDE = 16, 8, 64
"""Of a clip: how many frames, frames a second, and pixels of a frame's side."""
SMALL, LARGE = 17.0, 28.0
"""Sides of the squares that scans of pairs are drawn in, in pixels."""
PAIRS = (2 * len(WORDS)) ** 2
"""Different captions: either digit large or small."""
CLIPS_PER_SHARD = 400
_ENLARGED = 32
_WRITERS = 8
_DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

Scans = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class MovingDigit:
    """A scan, where it is in the middle of a clip, and how it changes from frame to frame.

    Attributes:
        scan: its number.
        x, y: its centre, in pixels.
        side: of its square, in pixels.
        angle: counter-clockwise, in degrees.
        across, down: pixels that it moves by a frame.
        turn: degrees that it turns by a frame.
        growth: what its side is multiplied by a frame.
    """

    scan: int
    x: float
    y: float
    side: float
    angle: float
    across: float = 0.0
    down: float = 0.0
    turn: float = 0.0
    growth: float = 1.0


@dataclass(frozen=True)
class DigitClip:
    """What is in a clip.

    Attributes:
        number: of the clip in its split.
        digits: from back to front.
        background: grey in 0..255.
        captions: true sentences, the first of which says it shortest.
        label: of the action; None where captions describe it.
    """

    number: int
    digits: tuple[MovingDigit, ...]
    background: float
    captions: tuple[str, ...]
    label: int | None = None


def action_clip(split: str, number: int, classes: NDArray[np.int64]) -> DigitClip:
    """Clip ``number`` of a split's actions; ``classes`` are the digits of all scans."""
    draw = uniforms(mix(number, 0xAC7, split == "train"))
    scans = _scans_of(split, classes)
    label = number % len(ACTIONS)
    action = ACTIONS[label]
    speed, sign = 1 + next(draw), 1 if next(draw) < 0.5 else -1
    across, down = _DIRECTIONS.get(action, (0, 0))
    scan = int(scans[int(next(draw) * len(scans))])
    growth = 1 + 0.04 * speed
    digit = MovingDigit(
        scan=scan,
        x=SIDE / 2 + 20 * next(draw) - 10,
        y=SIDE / 2 + 20 * next(draw) - 10,
        side=20 + 12 * next(draw),
        angle=360 * next(draw),
        across=across * speed,
        down=down * speed,
        turn=6 * speed * sign if action == "rotate" else 0.0,
        growth={"grow": growth, "shrink": 1 / growth}.get(action, 1.0),
    )
    name = _named(int(classes[scan]), small=False)
    return DigitClip(number, (digit,), 20 + 60 * next(draw), (f"{name}: {action}",), label)


def pair_clip(split: str, number: int, classes: NDArray[np.int64]) -> DigitClip:
    """Clip ``number`` of a split's pairs: a digit that passes another one.

    Which pairs there are is a permutation of all, so that of ``PAIRS`` clips no two are described
    alike.
    """
    draw = uniforms(mix(number, 0x9A55, split == "train"))
    scans = _scans_of(split, classes)
    again, place = divmod(number, PAIRS)
    pair = int(permutation(PAIRS, mix(again, 0x9A1, split == "train"))[place])
    mover, stander = divmod(pair, 2 * len(WORDS))
    top = 1 if next(draw) < 0.5 else -1
    speed = (1.5 + 0.5 * next(draw)) * (1 if next(draw) < 0.5 else -1)
    x = SIDE / 2 + 12 * next(draw) - 6

    def digit(kind: int, down: int, across: float) -> MovingDigit:
        chosen = scans[classes[scans] == kind // 2]
        return MovingDigit(
            scan=int(chosen[int(next(draw) * len(chosen))]),
            x=x,
            y=SIDE / 2 + down * 15,
            side=SMALL if kind % 2 else LARGE,
            angle=16 * next(draw) - 8,
            across=across,
        )

    digits = (digit(stander, -top, 0.0), digit(mover, top, speed))
    a, b = (_named(kind // 2, small=bool(kind % 2)) for kind in (mover, stander))
    captions = (f"{a} passes {b}", f"{b} is passed by {a}", f"{a} goes past {b}")
    return DigitClip(number, digits, 20 + 60 * next(draw), captions)


def clip_frames(clip: DigitClip, scans: Scans) -> Iterator[NDArray[np.uint8]]:
    """The frames, uint8 ``(SIDE, SIDE, 3)``; ``scans`` are all scans (n, 8, 8) in [0, 1]."""
    sources = [_enlarged(scans[digit.scan]) for digit in clip.digits]
    for number in range(FRAMES):
        since = number - (FRAMES - 1) / 2
        frame = np.full((SIDE, SIDE), clip.background)
        for digit, source in zip(clip.digits, sources, strict=True):
            ink = _drawn(digit, source, since)
            frame = frame * (1 - ink) + 250 * ink
        grey = np.rint(frame).astype(np.uint8)
        yield np.repeat(grey[:, :, None], 3, axis=2)


def clip_file(clip: DigitClip, scans: Scans) -> bytes:
    """The clip as H.264 in mp4."""
    # Here, so that whoever only reads a built-in data set loads no decoder.
    from florence.data.video.writing import write_clip

    options = {"crf": "18", "preset": "veryfast", "g": str(FRAMES)}
    return write_clip(clip_frames(clip, scans), rate=RATE, options=options)


def write_actions(
    out: str,
    s3: S3Settings | None = None,
    *,
    files: bool = False,
    counts: dict[str, int] | None = None,
) -> dict[str, int]:
    """Write the splits of the actions as shards under a folder or ``s3://`` prefix.

    Args:
        out: where; the shards are ``train/clips-000000.tar`` and so on.
        files: also write ``train.csv`` as Kinetics has it, and the videos that it names in
            ``videos/``, as a person's own data would lie there.
        counts: clips by split; ``ACTION_COUNTS`` by default.

    Returns:
        The number of clips by split.
    """
    counts = dict(ACTION_COUNTS if counts is None else counts)
    seconds = FRAMES // RATE
    for split, made in _made(out, s3, counts, action_clip):
        if not files:
            continue
        rows = ["label,youtube_id,time_start,time_end,split"]
        videos = {}
        for clip, data in made:
            name = f"digits-{split}-{clip.number:05d}"
            action = ACTIONS[clip.label or 0]
            rows.append(f"{action},{name},0,{seconds},{split}")
            videos[f"{action}/{name}_000000_{seconds:06d}.mp4"] = data
        base = out.rstrip("/") or "/"
        open_storage(base, s3).write(f"{split}.csv", ("\n".join(rows) + "\n").encode())
        _write_videos(f"{base}/videos", s3, videos)
    return counts


def write_pairs(
    out: str,
    s3: S3Settings | None = None,
    *,
    files: bool = False,
    counts: dict[str, int] | None = None,
) -> dict[str, int]:
    """Write the splits of the pairs as shards under a folder or ``s3://`` prefix.

    Args:
        out: where; the shards are ``train/clips-000000.tar`` and so on.
        files: also write ``videodata.json`` as MSR-VTT has it, and its videos in ``videos/``.
        counts: clips by split; ``PAIR_COUNTS`` by default.

    Returns:
        The number of clips by split.
    """
    counts = dict(PAIR_COUNTS if counts is None else counts)
    base, first = out.rstrip("/") or "/", 0
    listed: list[dict[str, Any]] = []
    sentences: list[dict[str, Any]] = []
    for split, made in _made(out, s3, counts, pair_clip):
        if not files:
            continue
        videos = {}
        for clip, data in made:
            name = f"video{first + clip.number}"
            listed.append({"video_id": name, "split": split, "start time": 0, "end time": 2})
            sentences += [
                {"sen_id": len(sentences) + i, "video_id": name, "caption": caption}
                for i, caption in enumerate(clip.captions)
            ]
            videos[f"{name}.mp4"] = data
        first += len(made)
        _write_videos(f"{base}/videos", s3, videos)
    if files:
        document = {"info": {"description": "digits"}, "videos": listed, "sentences": sentences}
        open_storage(base, s3).write("videodata.json", json.dumps(document).encode())
    return counts


def _made(
    out: str,
    s3: S3Settings | None,
    counts: dict[str, int],
    make: Callable[[str, int, NDArray[np.int64]], DigitClip],
) -> Iterator[tuple[str, list[tuple[DigitClip, bytes]]]]:
    """Each split when its shards are written, with its clips and their files."""
    scans, classes = scanned_digits()
    for split, count in counts.items():
        clips = [make(split, number, classes) for number in range(count)]
        made = [(clip, clip_file(clip, scans)) for clip in clips]
        folder = f"{out.rstrip('/') or '/'}/{split}"
        storage = open_storage(folder, s3)
        for shard, start in enumerate(range(0, count, CLIPS_PER_SHARD)):
            some = made[start : start + CLIPS_PER_SHARD]
            samples = ((f"{clip.number:06d}", _members(clip, data)) for clip, data in some)
            write_shard(storage, f"clips-{shard:06d}.tar", samples)
        if make is action_clip:
            storage.write(CLASSES, (json.dumps(ACTIONS, indent=1) + "\n").encode())
        index_data(folder, s3)
        yield split, made


def _members(clip: DigitClip, data: bytes) -> dict[str, bytes]:
    meta = {
        "caption": clip.captions[0],
        "captions": list(clip.captions),
        "width": SIDE,
        "height": SIDE,
        "frames": FRAMES,
        "seconds": FRAMES / RATE,
    }
    members = {"mp4": data, "txt": clip.captions[0].encode(), "json": json.dumps(meta).encode()}
    if clip.label is not None:
        members["cls"] = str(clip.label).encode()
    return members


def _write_videos(folder: str, s3: S3Settings | None, videos: dict[str, bytes]) -> None:
    storage = open_storage(folder, s3)
    # Several at a time: each waits for the disk or the network alone.
    for _ in map_in_threads(lambda item: storage.write(*item), videos.items(), _WRITERS):
        pass


def _scans_of(split: str, classes: Sequence[Any] | NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of a split's scans."""
    first, stop = (0, TRAIN_COUNT) if split == "train" else (TRAIN_COUNT, len(classes))
    return np.arange(first, stop)


def _named(digit: int, *, small: bool) -> str:
    word = WORDS[digit]
    if small:
        return f"a small {word}"
    return f"an {word}" if word == "eight" else f"a {word}"


def _enlarged(scan: Scans) -> Image.Image:
    """A scan with room around it, smooth: ink in 0..255."""
    grey = Image.fromarray(np.rint(np.pad(scan, 2) * 255).astype(np.uint8))
    side = _ENLARGED * grey.width // 8
    return grey.resize((side, side), Image.Resampling.BICUBIC)


def _drawn(digit: MovingDigit, source: Image.Image, since: float) -> Scans:
    """The ink of a digit so many frames after the middle: ``(SIDE, SIDE)`` in [0, 1]."""
    x, y = digit.x + since * digit.across, digit.y + since * digit.down
    scale = _ENLARGED / (digit.side * digit.growth**since)
    turned = math.radians(digit.angle + since * digit.turn)
    cos, sin = scale * math.cos(turned), scale * math.sin(turned)
    middle = source.width / 2
    # Where each pixel of the frame lies in the source.
    lies = (cos, -sin, middle - cos * x + sin * y, sin, cos, middle - sin * x - cos * y)
    seen = source.transform(
        (SIDE, SIDE), Image.Transform.AFFINE, lies, Image.Resampling.BICUBIC, fillcolor=0
    )
    # Scans are soft; ink has an edge.
    return np.asarray(np.clip((np.asarray(seen) / 255 - 0.15) / 0.5, 0, 1))
