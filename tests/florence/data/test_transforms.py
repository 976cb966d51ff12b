from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from florence.config import Augmentation
from florence.data.hashing import mix, uniforms
from florence.data.images import decode
from florence.data.transforms import (
    eval_pixels,
    eval_transform,
    normalise,
    random_box,
    rotate,
    train_pixels,
)
from tests.florence.data.making import picture

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WHOLE = Augmentation(scale_min=1, scale_max=1, ratio_min=1, ratio_max=1)

augmentations = st.builds(
    lambda a, b, c, d: Augmentation(
        scale_min=min(a, b), scale_max=max(a, b), ratio_min=min(c, d), ratio_max=max(c, d)
    ),
    st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0.2, 5), st.floats(0.2, 5),
)  # fmt: skip


@given(st.integers(1, 900), st.integers(1, 900), augmentations, st.integers(0, 2**63))
def test_boxes_lie_in_the_image(w: int, h: int, augmentation: Augmentation, key: int) -> None:
    left, top, right, bottom = random_box(w, h, augmentation, uniforms(key))
    assert 0 <= left < right <= w
    assert 0 <= top < bottom <= h


def test_boxes_have_the_wanted_areas_ratios_and_places() -> None:
    augmentation = Augmentation(scale_min=0.2, scale_max=0.5)
    boxes = [random_box(640, 480, augmentation, uniforms(mix(7, k))) for k in range(2000)]
    left, top, right, bottom = np.array(boxes, float).T
    area = (right - left) * (bottom - top) / (640 * 480)
    ratio = np.log((right - left) / (bottom - top))
    assert 0.199 < area.min() < 0.21
    assert 0.49 < area.max() < 0.501
    assert abs(area.mean() - 0.35) < 0.01
    assert abs(ratio.mean()) < 0.02
    assert np.exp(np.abs(ratio)).max() < 4 / 3 * 1.01
    centres = (left + right) / 2 / 640
    assert abs(centres.mean() - 0.5) < 0.01
    assert left.min() == 0
    assert right.max() == 640


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**63), st.integers(8, 40))
@settings(max_examples=40)
def test_train_pixels_are_a_pure_function(w: int, h: int, key: int, resolution: int) -> None:
    augmentation = Augmentation(scale_min=0.3, rotation=20, flip=True)
    data = picture(key % 5, w, h)
    first = train_pixels(data, resolution, augmentation, key)
    assert first.shape == (3, resolution, resolution)
    assert first.dtype == np.uint8
    assert np.array_equal(first, train_pixels(data, resolution, augmentation, key))


def test_crops_differ_by_key() -> None:
    data = picture(0, 60, 50)
    crops = {train_pixels(data, 16, Augmentation(scale_min=0.3), k).tobytes() for k in range(20)}
    assert len(crops) == 20


def test_a_whole_square_is_only_resized() -> None:
    data = picture(0, 40, 40)
    for key in range(5):
        ours = train_pixels(data, 40, WHOLE, key)
        assert np.array_equal(ours, np.asarray(decode(data)).transpose(2, 0, 1))


def test_a_crop_of_a_reduced_jpeg_is_the_crop_of_the_whole() -> None:
    """Decoding a JPEG at a fraction of its size must not move the crop."""
    ramp = np.linspace(0, 255, 1600)
    both = np.stack([np.tile(ramp, (1200, 1)), np.tile(ramp[:1200, None], (1, 1600))], -1)
    image = Image.fromarray(np.concatenate([both, both[..., :1]], -1).astype(np.uint8))
    buffers = {kind: io.BytesIO() for kind in ("PNG", "JPEG")}
    image.save(buffers["PNG"], "PNG")
    image.save(buffers["JPEG"], "JPEG", quality=95)
    augmentation = Augmentation(scale_min=0.3, scale_max=0.6)
    for key in range(8):
        whole, reduced = (
            train_pixels(b.getvalue(), 64, augmentation, key).astype(int) for b in buffers.values()
        )
        assert np.abs(whole - reduced).mean() < 1.5


def test_flip_mirrors_half_of_the_images_and_only_when_asked() -> None:
    data, plain = picture(0, 16, 16), WHOLE
    flipping = plain.model_copy(update={"flip": True})
    straight = train_pixels(data, 16, plain, 0)
    mirrored = 0
    for key in range(400):
        assert np.array_equal(train_pixels(data, 16, plain, key), straight)
        got = train_pixels(data, 16, flipping, key)
        if not np.array_equal(got, straight):
            assert np.array_equal(got, straight[:, :, ::-1])
            mirrored += 1
    assert 150 < mirrored < 250


@pytest.mark.parametrize("size", [(32, 32), (31, 31)])
def test_rotation_turns_about_the_centre_and_keeps_flat_areas(size: tuple[int, int]) -> None:
    flat = Image.new("RGB", size, (10, 200, 90))
    assert set(rotate(flat, 33.0).get_flattened_data()) == {(10, 200, 90)}
    image = decode(picture(2, *size))
    quarter = np.asarray(rotate(image, 90.0)).astype(int)
    assert np.abs(quarter - np.rot90(np.asarray(image))).max() <= 1
    assert rotate(image, 5).size == size


def test_rotation_angles_spread_to_both_sides() -> None:
    augmentation = WHOLE.model_copy(update={"rotation": 30.0})
    bar = np.zeros((32, 32, 3), np.uint8)
    bar[15:17] = 255
    buffer = io.BytesIO()
    Image.fromarray(bar).save(buffer, "PNG")
    slopes = []
    for key in range(60):
        pixels = train_pixels(buffer.getvalue(), 32, augmentation, key)[0].astype(float)
        rows = (pixels * np.arange(32)[:, None]).sum(0) / pixels.sum(0).clip(1)
        slopes.append(np.degrees(np.arctan(np.polyfit(np.arange(8, 24), rows[8:24], 1)[0])))
    assert min(slopes) < -20
    assert max(slopes) > 20
    assert max(np.abs(slopes)) < 31
    assert abs(np.mean(slopes)) < 8


@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 40))
@settings(max_examples=60)
def test_eval_pixels_are_the_central_square(w: int, h: int, resolution: int) -> None:
    pixels = eval_pixels(decode(picture(0, w, h)), resolution)
    assert pixels.shape == (3, resolution, resolution)


def test_eval_pixels_equal_torchvisions() -> None:
    try:
        from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize
    except Exception as error:  # PyPI's torchvision does not load beside a CPU-only torch
        pytest.skip(f"torchvision does not import here: {error}")
    for (w, h), r in itertools.product([(80, 60), (60, 80), (33, 33), (20, 90)], [16, 48]):
        image = decode(picture(1, w, h))
        theirs = Compose([Resize(r, InterpolationMode.BICUBIC), CenterCrop(r)])(image)
        ours = eval_pixels(image, r).transpose(1, 2, 0).astype(int)
        # Where a side comes out between two integers, torchvision rounds down.
        assert np.abs(ours - np.asarray(theirs)).mean() < 4


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (3, 7, 7), (0, 3, 4, 4), (8, 3, 200, 201)])
def test_normalise(shape: tuple[int, ...]) -> None:
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
    expected = torch.empty(shape, dtype=torch.float64)
    for c in range(3):
        expected[..., c, :, :] = (pixels[..., c, :, :].double() / 255 - MEAN[c]) / STD[c]
    got = normalise(pixels, MEAN, STD)
    assert got.shape == pixels.shape
    assert got.dtype == torch.float32
    assert torch.allclose(got.double(), expected, atol=1e-6)


def test_eval_transform_is_both() -> None:
    image = decode(picture(4, 50, 40))
    got = eval_transform(24, MEAN, STD)(image)
    expected = normalise(torch.from_numpy(eval_pixels(image, 24)), MEAN, STD)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("size", [(3, 100_000), (100_000, 3), (1, 1 << 20)])
def test_a_strip_is_not_blown_up(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    resize = Image.Image.resize

    def watched(image: Image.Image, to: tuple[int, int], *options: Any) -> Image.Image:
        made.append(to[0] * to[1])
        assert made[-1] <= 1 << 20, "Pillow would take gigabytes"
        return resize(image, to, *options)

    monkeypatch.setattr(Image.Image, "resize", watched)
    strip = Image.new("RGB", size, (0, 0, 9))
    middle = (size[0] // 2 - 1, size[1] // 2 - 1, size[0] // 2 + 2, size[1] // 2 + 2)
    strip.paste((200, 100, 50), middle)
    pixels = eval_pixels(strip, 64)
    assert made
    assert pixels.shape == (3, 64, 64)
    assert pixels[0, 32, 32] > 150 > pixels[1, 32, 32] > 75
