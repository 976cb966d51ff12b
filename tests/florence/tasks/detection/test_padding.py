import torch

from florence.tasks.detection.padding import Group, grouped, stacked


def image(height: int, width: int) -> torch.Tensor:
    return torch.full((3, height, width), 255, dtype=torch.uint8)


def test_images_of_one_padded_size_form_a_group() -> None:
    images = [image(30, 30), image(33, 30), image(32, 1), image(64, 32)]
    assert grouped(images) == [Group((0, 2), (32, 32)), Group((1, 3), (64, 32))]


def test_groups_are_cut_to_as_many_as_are_needed() -> None:
    images = [image(32, 32)] * 5
    for count in (1, 2, 3, 5, 9):
        groups = grouped(images, at_least=count)
        assert len(groups) == min(count, 5)
        assert [index for group in groups for index in group.indices] == [0, 1, 2, 3, 4]


def test_padding_is_zero_after_normalisation() -> None:
    batch = stacked([image(20, 30)], Group((0,), (32, 32)), (0.5,) * 3, (0.5,) * 3)
    assert batch.shape == (1, 3, 32, 32)
    assert (batch[0, :, :20, :30] == 1).all()
    assert batch.sum() == 3 * 20 * 30
