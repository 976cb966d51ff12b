"""The dynamic head against a second implementation, written from the paper's formulas alone."""

import math

import pytest
import torch
from torch import Tensor

from florence.tasks.detection.dynamic_head import DynamicHead, DynamicHeadBlock, DynamicReLU
from florence.tasks.detection.shape import DetectorShape

SMALL = DetectorShape(classes=3, channels=32, blocks=1)


def block(shape: DetectorShape = SMALL, seed: int = 0) -> DynamicHeadBlock:
    made = DynamicHeadBlock(shape)
    generator = torch.Generator().manual_seed(seed)
    made.reset_parameters(generator)
    for parameter in made.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
    return made.requires_grad_(False)


def maps(count: int, channels: int = 32, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [(13, 18), (7, 9), (4, 5), (2, 3), (1, 2)][:count]
    return [torch.randn(2, channels, h, w, generator=generator) for h, w in sizes]


def at(image: Tensor, y: float, x: float) -> Tensor:
    """A bilinear sample of (C, H, W); what lies outside is zero."""
    top, left = math.floor(y), math.floor(x)
    total = torch.zeros(len(image))
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                total += image[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def looked(image: Tensor, where: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Deformable convolution of (C, H, W) with the 27 channels that say where it looks."""
    _, rows, columns = where.shape
    result = torch.zeros(len(weight), rows, columns)
    for row in range(rows):
        for column in range(columns):
            for tap in range(9):
                y = row * stride - 1 + tap // 3 + where[2 * tap, row, column].item()
                x = column * stride - 1 + tap % 3 + where[2 * tap + 1, row, column].item()
                mask = 1 / (1 + math.exp(-where[18 + tap, row, column].item()))
                result[:, row, column] += weight[:, :, tap // 3, tap % 3] @ at(image, y, x) * mask
    return result


def normalised(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    parts = x.reshape(groups, -1)
    mean = parts.mean(dim=1, keepdim=True)
    variance = ((parts - mean) ** 2).mean(dim=1, keepdim=True)
    scaled = ((parts - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
    return scaled * weight[:, None, None] + bias[:, None, None]


def enlarged(image: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, corner on corner."""

    def places(size: int, old: int) -> list[float]:
        return [i * (old - 1) / (size - 1) if size > 1 else 0.0 for i in range(size)]

    ys, xs = places(height, image.shape[1]), places(width, image.shape[2])
    return torch.stack([torch.stack([at(image, y, x) for x in xs], -1) for y in ys], -2)


def weighted(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    middle = x.mean(dim=(1, 2))
    score = (state["scale.conv.weight"].flatten() @ middle + state["scale.conv.bias"]).clamp(min=0)
    return x * ((score + 3) / 6).clamp(0, 1)


def activated(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    hidden = state["relu.fc1.weight"] @ x.mean(dim=(1, 2)) + state["relu.fc1.bias"]
    y = state["relu.fc2.weight"] @ hidden.clamp(min=0) + state["relu.fc2.bias"]
    y = ((y + 3) / 6).clamp(0, 1)
    c = len(x)
    a1, b1, a2, b2 = (y[i * c : (i + 1) * c, None, None] for i in range(4))
    first = x * ((a1 - 0.5) * 2 + 1) + b1 - 0.5
    second = x * ((a2 - 0.5) * 2) + b2 - 0.5
    return torch.where(first > second, first, second)


def plainly(levels: list[Tensor], state: dict[str, Tensor], groups: int) -> list[Tensor]:
    """One block, image by image."""
    results = []
    for number, current in enumerate(levels):
        images = []
        for index, x in enumerate(current):
            where = torch.conv2d(x[None], state["offset.weight"], state["offset.bias"], padding=1)
            looks = [("same", x, 1)]
            if number:
                looks.append(("finer", levels[number - 1][index], 2))
            if number + 1 < len(levels):
                above = enlarged(levels[number + 1][index], *x.shape[1:])
                looks.append(("coarser", above, 1))
            terms = []
            for name, source, stride in looks:
                y = looked(source, where[0], state[f"{name}.weight"], stride)
                norm = state[f"{name}.norm.weight"], state[f"{name}.norm.bias"]
                terms.append(weighted(normalised(y, *norm, groups), state))
            images.append(activated(torch.stack(terms).mean(dim=0), state))
        results.append(torch.stack(images))
    return results


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_a_block_computes_what_the_paper_says(count: int) -> None:
    made, levels = block(), maps(count)
    expected = plainly(levels, made.state_dict(), groups=16)
    for found, wanted in zip(made(*levels), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_the_number_of_parameters_is_the_released_heads() -> None:
    head = DynamicHead(DetectorShape(classes=80))
    total = sum(p.numel() for p in head.parameters())
    assert total / 6 == 1_916_508
    assert round(total / 1e6, 1) == 11.5


def test_fixed_offsets_and_constant_input_make_a_plain_convolution() -> None:
    made = block(DetectorShape(classes=1, channels=32, normalisation="none"))
    made.offset.weight.zero_()
    made.offset.bias[:18] = 0
    made.offset.bias[18:] = 30  # a mask of one
    constant = torch.ones(1, 32, 8, 8)
    plain = torch.conv2d(constant, made.same.weight, padding=1)
    (found,) = made(constant)
    torch.testing.assert_close(found, made.relu(plain * made.scale(plain)), rtol=1e-5, atol=1e-5)


def test_recomputing_blocks_changes_neither_outputs_nor_gradients() -> None:
    shape = DetectorShape(classes=1, channels=32, blocks=2)
    results = []
    for recompute in (False, True):
        head = DynamicHead(shape, recompute=recompute)
        head.reset_parameters(torch.Generator().manual_seed(0))
        levels = head(maps(3))
        sum(level.square().sum() for level in levels).backward()
        results.append([*levels, *(p.grad for p in head.parameters())])
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize("normalisation", ["group", "layer", "none"])
def test_every_normalisation_keeps_shapes(normalisation: str) -> None:
    made = block(DetectorShape(classes=1, channels=32, normalisation=normalisation))
    levels = maps(3)
    assert [x.shape for x in made(*levels)] == [x.shape for x in levels]


def test_a_dynamic_relu_of_fresh_weights_is_nearly_a_relu() -> None:
    relu = DynamicReLU(32)
    for linear in (relu.fc1, relu.fc2):
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    x = maps(1)[0]
    torch.testing.assert_close(relu(x), x.clamp(min=0))
