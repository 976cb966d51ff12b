import pytest
import torch

from florence.tasks.detection.anchors import Level, anchors, levels_of
from florence.tasks.detection.boxes import area, centres


def test_there_is_one_square_anchor_in_the_middle_of_every_cell() -> None:
    levels = levels_of(96, 160, (8, 16, 32, 64, 128))
    every = anchors(levels)
    assert len(every) == sum(level.cells for level in levels)
    start = 0
    for level in levels:
        own = every[start : start + level.cells]
        start += level.cells
        assert area(own).tolist() == pytest.approx([(8 * level.stride) ** 2] * level.cells)
        expected = [
            ((column + 0.5) * level.stride, (row + 0.5) * level.stride)
            for row in range(level.height)
            for column in range(level.width)
        ]
        torch.testing.assert_close(centres(own), torch.tensor(expected))


def test_levels_behind_stride_32_are_half_the_one_before_rounded_up() -> None:
    sizes = [(level.height, level.width) for level in levels_of(800, 1344, (8, 16, 32, 64, 128))]
    assert sizes == [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]


def test_a_pyramid_may_begin_anywhere() -> None:
    assert levels_of(64, 96, (4,)) == (Level(16, 24, 4),)
    assert levels_of(64, 96, (64, 128)) == (Level(1, 2, 64), Level(1, 1, 128))
