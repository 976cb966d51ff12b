"""Boxes are painted into an image; what becomes of the paint is where the boxes must be."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from florence.data.hashing import uniforms
from florence.data.images import open_image
from florence.tasks.detection.augment import (
    FILL,
    Scene,
    View,
    copy_paste,
    draw_view,
    fitted_size,
    mixup,
    mosaic,
    viewed,
)
from florence.tasks.detection.augmentation import DetectionAugmentation, LargeScaleJitter
from florence.tasks.detection.objects import Objects, joined

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255]], np.uint8)
SIDES = st.integers(40, 120)


def objects_of(boxes: NDArray[np.float32]) -> Objects:
    count = len(boxes)
    return Objects(
        boxes=boxes.astype(np.float32).reshape(-1, 4),
        labels=np.arange(count),
        crowd=np.zeros(count, np.bool_),
        scores=np.ones(count, np.float32),
    )


def painted(width: int, height: int, seed: int, first: int = 0) -> Scene:
    """Boxes side by side that do not touch, each in the colour of its label."""
    random = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), FILL, np.uint8)
    columns = np.linspace(0, width, 3).astype(int)
    boxes = []
    for number, (start, stop) in enumerate(pairwise(columns)):
        left = random.integers(start + 2, start + 6)
        right = random.integers(left + 8, stop - 2)
        top = random.integers(0, height - 14)
        bottom = random.integers(top + 8, height)
        pixels[top:bottom, left:right] = COLOURS[first + number]
        boxes.append((left, top, right, bottom))
    objects = objects_of(np.array(boxes))
    return Scene(pixels, Objects(**{**vars(objects), "labels": objects.labels + first}))


def png(scene: Scene) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(scene.pixels).save(buffer, "PNG")
    return buffer.getvalue()


def paint_box(pixels: NDArray[np.uint8], colour: NDArray[np.uint8]) -> NDArray[np.float32] | None:
    """The box around what is closest to a colour, at least half of it."""
    background = np.full(3, FILL)
    wanted = colour.astype(float) - background
    share = (pixels.astype(float) - background) @ wanted / (wanted @ wanted)
    far = np.abs(pixels.astype(float) - background - share[..., None] * wanted).max(axis=2)
    rows, columns = np.nonzero((share >= 0.5) & (far < 40))
    if not len(rows):
        return None
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)


def check(scene: Scene, tolerance: float) -> None:
    """Every object's box is where its paint is, and no paint is without a box."""
    height, width = scene.pixels.shape[:2]
    objects = scene.objects
    assert (objects.boxes >= 0).all()
    assert (objects.boxes <= [width, height, width, height]).all()
    for row, label in enumerate(objects.labels):
        found = paint_box(scene.pixels, COLOURS[label])
        assert found is not None
        np.testing.assert_allclose(objects.boxes[row], found, atol=tolerance)
    for label in set(range(len(COLOURS))) - set(objects.labels.tolist()):
        found = paint_box(scene.pixels, COLOURS[label])
        # What is left of a dropped object is a line.
        assert found is None or min(found[2:] - found[:2]) <= 2


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.integers(0, 2**32), st.integers(0, 2**62))
def test_multi_scale_and_flip_take_the_boxes_along(
    width: int, height: int, seed: int, key: int
) -> None:
    chosen = DetectionAugmentation(short_side_min=40, short_side_max=160, max_side=200)
    scene = painted(width, height, seed)
    view = draw_view(width, height, chosen, uniforms(key))
    result = viewed(open_image(png(scene)), scene.objects, view)
    assert result.pixels.shape[:2] == view.size[::-1]
    assert max(view.size) <= 200
    assert len(result.objects) == 2
    check(result, tolerance=1.5)


@settings(max_examples=30, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.booleans(), st.integers(0, 2**32))
def test_a_whole_image_is_resized_as_pillow_does(
    width: int, height: int, to_width: int, to_height: int, mirrored: bool, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    view = View((to_width, to_height), (0.0, 0.0, float(width), float(height)), mirrored)
    none = objects_of(np.zeros((0, 4)))
    found = viewed(open_image(png(Scene(pixels, none))), none, view).pixels.astype(int)
    image = Image.fromarray(pixels).resize(view.size, Image.Resampling.BILINEAR)
    expected = np.asarray(image)[:, ::-1] if mirrored else np.asarray(image)
    assert np.abs(found - expected).max() <= 1


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.integers(0, 2**32), st.integers(0, 2**62))
def test_large_scale_jitter_cuts_boxes_at_the_edge(
    width: int, height: int, seed: int, key: int
) -> None:
    jitter = LargeScaleJitter(side=128, scale_min=0.5, scale_max=2.0)
    chosen = DetectionAugmentation(large_scale_jitter=jitter)
    scene = painted(width, height, seed)
    view = draw_view(width, height, chosen, uniforms(key))
    assert max(view.size) <= 128
    # Where a box is cut to a sliver, its paint fades over half a pixel of the image at its corners.
    tolerance = max(2.0, 1 + view.size[0] / (view.region[2] - view.region[0]) / 2)
    check(viewed(open_image(png(scene)), scene.objects, view, min_visible=0.0), tolerance)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 2**62))
def test_a_mosaic_shows_each_scene_around_the_point(seed: int, key: int) -> None:
    plain = [painted(90, 70, seed + number) for number in range(4)]
    empty = Scene(np.full((70, 90, 3), FILL, np.uint8), objects_of(np.zeros((0, 4))))
    for place in range(4):  # one at a time, so that every colour is there once
        scenes = [plain[n] if n == place else empty for n in range(4)]
        result = mosaic(scenes, uniforms(key), min_visible=0.0)
        assert result.pixels.shape == (70, 90, 3)
        check(result, tolerance=0.01)
    assert len(mosaic(plain, uniforms(key)).objects) <= 8


def test_a_mosaic_of_small_scenes_leaves_the_rest_grey() -> None:
    small = painted(44, 40, 1)
    large = Scene(np.zeros((200, 200, 3), np.uint8), objects_of(np.zeros((0, 4))))
    result = mosaic([large, small, small, small], uniforms(3))
    assert (result.pixels == FILL).all(axis=2).sum() > 10_000
    assert len(result.objects) == 6


@given(st.integers(0, 2**32), st.floats(0.3, 0.7))
def test_mixup_blends_and_keeps_every_box_with_its_share(seed: int, share: float) -> None:
    one, other = painted(80, 60, seed), painted(60, 90, seed + 1, first=2)
    result = mixup(one, other, share)
    assert result.pixels.shape == (90, 80, 3)
    np.testing.assert_array_equal(
        result.objects.boxes, np.concatenate([one.objects.boxes, other.objects.boxes])
    )
    np.testing.assert_allclose(result.objects.scores, [share] * 2 + [1 - share] * 2, rtol=1e-6)
    expected = share * one.pixels[:60, :60].astype(float) + (1 - share) * other.pixels[:60, :60]
    assert np.abs(result.pixels[:60, :60] - expected).max() <= 0.51


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 2**62))
def test_pasted_objects_bring_their_boxes(seed: int, key: int) -> None:
    empty = Scene(np.full((80, 100, 3), FILL, np.uint8), objects_of(np.zeros((0, 4))))
    other = painted(90, 70, seed)
    one = Scene(other.pixels, other.objects.take(np.array([0])))
    result = copy_paste(empty, one, uniforms(key))
    check(result, tolerance=0.01)
    # What is pasted over goes when too little of it is left.
    covered = copy_paste(painted(100, 80, seed, first=2), one, uniforms(key), min_visible=0.99)
    for row in range(len(covered.objects)):
        if covered.objects.labels[row] >= 2:
            found = paint_box(covered.pixels, COLOURS[covered.objects.labels[row]])
            assert found is not None
            np.testing.assert_allclose(covered.objects.boxes[row], found, atol=1)


def test_what_is_hardly_visible_is_dropped() -> None:
    objects = objects_of(np.array([[0, 0, 10, 10], [8, 0, 30, 10], [50, 50, 60, 60]]))
    view = View((10, 40), (0.0, 0.0, 10.0, 40.0))
    data = png(Scene(np.zeros((64, 64, 3), np.uint8), objects))
    every = viewed(open_image(data), objects, view, min_visible=0.0).objects
    assert every.labels.tolist() == [0, 1]
    kept = viewed(open_image(data), objects, view, min_visible=0.2).objects
    assert kept.labels.tolist() == [0]
    assert kept.boxes.tolist() == [[0, 0, 10, 10]]


def test_a_jpeg_decoded_at_half_its_size_has_the_same_boxes() -> None:
    scene = painted(100, 80, 5)
    large = Image.fromarray(scene.pixels).resize((1600, 1280), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    large.save(buffer, "JPEG", quality=95)
    objects = objects_of(scene.objects.boxes * 16)
    view = View((100, 80), (0.0, 0.0, 1600.0, 1280.0), mirrored=True)
    check(viewed(open_image(buffer.getvalue()), objects, view), tolerance=1.5)


@pytest.mark.parametrize(
    ("size", "short", "longest", "expected"),
    [
        ((640, 480), 800, 1333, (1067, 800)),
        ((480, 640), 800, 1333, (800, 1067)),
        ((1000, 100), 800, 1333, (1333, 133)),
        ((100_000, 1), 800, 1333, (1333, 1)),
    ],
)
def test_the_long_side_wins(
    size: tuple[int, int], short: int, longest: int, expected: tuple[int, int]
) -> None:
    assert fitted_size(*size, short, longest) == expected


def test_joined_images_were_searched_for_what_both_were() -> None:
    one, other = objects_of(np.zeros((1, 4))), objects_of(np.zeros((2, 4)))
    one = Objects(**{**vars(one), "annotated": np.array([0, 2, 5])})
    other = Objects(**{**vars(other), "annotated": np.array([2, 3, 5])})
    annotated = joined([one, other]).annotated
    assert annotated is not None
    assert annotated.tolist() == [2, 5]
    target = joined([one, other]).target(6)
    assert target.annotated is not None
    assert target.annotated.tolist() == [False, False, True, False, False, True]
    assert len(target) == 3
