"""Clips of digits: single frames tell nothing of the action, captions are true, splits apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from florence.data.captions import captions_of
from florence.data.digit_clips import (
    ACTIONS,
    FRAMES,
    LARGE,
    PAIR_COUNTS,
    PAIRS,
    SIDE,
    SMALL,
    DigitClip,
    action_clip,
    clip_frames,
    pair_clip,
    write_actions,
    write_pairs,
)
from florence.data.digits import TRAIN_COUNT, WORDS
from florence.data.importing.importer import import_data
from florence.data.importing.registry import import_format
from florence.data.shards import Need, Sample, ShardSet
from florence.data.video.decoding import open_clip

PIXELS, LABELS = load_digits(return_X_y=True)
SCANS, CLASSES = PIXELS.reshape(-1, 8, 8) / 16, LABELS.astype(np.int64)


def centre(frame: np.ndarray) -> tuple[float, float]:
    """Of what is brighter than the background: across and down, in pixels."""
    bright = frame[:, :, 0] > 150
    down, across = np.nonzero(bright)
    return float(across.mean()), float(down.mean())


def ink(frame: np.ndarray) -> int:
    return int((frame[:, :, 0] > 150).sum())


def ends(clip: DigitClip) -> tuple[np.ndarray, np.ndarray]:
    frames = list(clip_frames(clip, SCANS))
    assert [frame.shape for frame in frames] == [(SIDE, SIDE, 3)] * FRAMES
    return frames[3], frames[12]


@pytest.mark.parametrize("number", range(24))
def test_frames_show_the_action(number: int) -> None:
    clip = action_clip("train", number, CLASSES)
    first, last = ends(clip)
    (x0, y0), (x1, y1) = centre(first), centre(last)
    seen = {
        "left": x1 < x0 - 5,
        "right": x1 > x0 + 5,
        "up": y1 < y0 - 5,
        "down": y1 > y0 + 5,
        "grow": ink(last) > 1.4 * ink(first),
        "shrink": ink(first) > 1.4 * ink(last),
        "still": np.array_equal(first, last),
        "rotate": not np.array_equal(first, last)
        and abs(x1 - x0) + abs(y1 - y0) < 5
        and abs(ink(first) - ink(last)) < 0.3 * ink(first),
    }
    action = ACTIONS[clip.label or 0]
    assert [name for name, is_seen in seen.items() if is_seen] == [action]
    assert clip.captions[0].endswith(f": {action}")


def test_the_middle_of_a_clip_is_alike_in_all_classes() -> None:
    """Places, sizes and angles of eight hundred clips, class by class, against those of all."""
    clips = [action_clip("train", number, CLASSES) for number in range(800)]
    for field, spread in (("x", 20), ("y", 20), ("side", 12), ("angle", 360)):
        values = np.array([getattr(clip.digits[0], field) for clip in clips])
        labels = np.array([clip.label for clip in clips])
        for label in range(len(ACTIONS)):
            own = values[labels == label]
            # Four standard errors of a uniform distribution's mean.
            assert abs(own.mean() - values.mean()) < 4 * spread / np.sqrt(12 * len(own))


def test_captions_say_who_passes_whom_and_all_held_out_ones_differ() -> None:
    firsts = []
    for number in range(PAIR_COUNTS["test"]):
        clip = pair_clip("test", number, CLASSES)
        stander, mover = clip.digits
        assert stander.across == 0
        assert abs(mover.across) >= 1.5
        words = []
        for digit in (mover, stander):
            assert digit.side in (SMALL, LARGE)
            small = "small " if digit.side == SMALL else ""
            words.append(f"{small}{WORDS[CLASSES[digit.scan]]}")
        first = clip.captions[0].replace("an eight", "a eight")
        assert first == f"a {words[0]} passes a {words[1]}"
        firsts.append(first)
    assert len(set(firsts)) == PAIR_COUNTS["test"]
    assert len({pair_clip("train", n, CLASSES).captions[0] for n in range(PAIRS)}) == PAIRS


@pytest.mark.parametrize("make", [action_clip, pair_clip])
def test_the_splits_share_no_scan(make: object) -> None:
    assert callable(make)
    for number in range(200):
        train, test = (make(split, number, CLASSES).digits for split in ("train", "test"))
        assert max(digit.scan for digit in train) < TRAIN_COUNT <= min(d.scan for d in test)


def samples(folder: Path) -> tuple[list[Sample], tuple[str, ...] | None]:
    shards = ShardSet.open(str(folder), need=Need.VIDEO)
    return [shards.read(i) for i in range(len(shards))], shards.class_names


def test_shards_and_the_fields_files_are_the_same_data(tmp_path: Path) -> None:
    counts = {"train": 16, "test": 8}
    assert write_actions(str(tmp_path / "a"), files=True, counts=counts) == counts
    assert write_pairs(str(tmp_path / "p"), files=True, counts=counts) == counts
    kinetics, msrvtt = import_format("kinetics"), import_format("msrvtt")
    given = kinetics.settings.model_validate({"videos": str(tmp_path / "a" / "videos")})
    import_data(kinetics, [str(tmp_path / "a" / "test.csv")], str(tmp_path / "ka"), given)
    given = msrvtt.settings.model_validate(
        {"videos": str(tmp_path / "p" / "videos"), "split": "train"}
    )
    import_data(msrvtt, [str(tmp_path / "p" / "videodata.json")], str(tmp_path / "mp"), given)
    (actions, names), (again, sorted_names) = samples(tmp_path / "a/test"), samples(tmp_path / "ka")
    assert names == ACTIONS
    assert sorted_names == tuple(sorted(ACTIONS))
    assert [s.media_bytes for s in again] == [s.media_bytes for s in actions]
    for one, other in zip(actions, again, strict=True):
        assert ACTIONS[one.class_index or 0] == sorted_names[other.class_index or 0]
    pairs, imported = samples(tmp_path / "p/train")[0], samples(tmp_path / "mp")[0]
    assert [captions_of(s) for s in pairs] == [captions_of(s) for s in imported]
    with open_clip(pairs[3].media_bytes) as clip:
        frames = clip.frames(range(FRAMES))
    expected = list(clip_frames(pair_clip("train", 3, CLASSES), SCANS))
    assert len(clip.times) == FRAMES
    errors = [np.abs(a.astype(int) - b).mean() for a, b in zip(frames, expected, strict=True)]
    assert max(errors) < 3
