"""The same picture in other bytes is near, another picture is not; on photographs and on noise."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from florence.curation.perceptual_hash import differing_bits, perceptual_hash
from florence.curation.settings import Curation
from tests.florence.curation.pictures import cut, jpeg, photographs

DISTANCE = Curation().distance


def apart(a: Image.Image, b: Image.Image) -> int:
    return (perceptual_hash(a) ^ perceptual_hash(b)).bit_count()


CHANGES = {
    "re-encoded at quality 50": lambda image: jpeg(image, 50),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "another aspect": lambda image: image.resize((image.width, image.height * 9 // 10)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "one per cent cut off all around": lambda image: cut(image, 0.01),
    "cut and re-encoded": lambda image: jpeg(cut(image, 0.01), 60),
}


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_within_the_default_distance(change: str) -> None:
    distances = [apart(image, CHANGES[change](image)) for image in photographs()]
    assert max(distances) <= DISTANCE, distances


def test_unrelated_photographs_are_far_apart() -> None:
    hashes = [perceptual_hash(image) for image in photographs()]
    nearest = min((a ^ b).bit_count() for a, b in combinations(hashes, 2))
    assert nearest > 2 * DISTANCE


def test_size_mode_and_plain_images() -> None:
    image = photographs()[0]
    assert perceptual_hash(image) < 1 << 64
    assert perceptual_hash(image) == perceptual_hash(image.convert("RGB").copy())
    assert apart(image, image.convert("L")) == 0
    plain = {perceptual_hash(Image.new("RGB", (50, 30), c)) for c in ("white", "black", "red")}
    assert len(plain) == 1


def test_the_bits_stay_what_they_are() -> None:
    """Hashes are stored in samples, so another version must find the same ones."""
    y, x = np.mgrid[:64, :96]
    pixels = (x * x + 3 * y * y + 5 * x * y) % 251
    assert f"{perceptual_hash(Image.fromarray(pixels.astype(np.uint8))):016x}" == "9cd5494d527e85ca"


def test_distances_are_counted_in_bits() -> None:
    a = np.array([0, 1, 2**64 - 1], np.uint64)
    b = np.array([0, 2, 0], np.uint64)
    assert differing_bits(a, b).tolist() == [0, 2, 64]
