import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from florence.tasks.detection.deformable import deform_conv, plain_deform_conv


def inputs(stride: int, scale: float, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    rows, columns = -(-7 // stride), -(-9 // stride)
    return (
        normal(2, 4, 7, 9),
        normal(2, 18, rows, columns) * scale,
        normal(2, 9, rows, columns).sigmoid(),
        normal(6, 4, 3, 3),
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("scale", [0.0, 0.5, 10.0])
def test_plain_torch_gives_what_torchvision_gives(stride: int, scale: float) -> None:
    x, offset, mask, weight = inputs(stride, scale)
    expected = torchvision.ops.deform_conv2d(x, offset, weight, stride=stride, padding=1, mask=mask)
    found = plain_deform_conv(x, offset, mask, weight, stride=stride)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_taps_that_stay_in_place_make_a_plain_convolution(stride: int) -> None:
    x, offset, mask, weight = inputs(stride, 0.0)
    found = plain_deform_conv(x, offset, torch.ones_like(mask), weight, stride=stride)
    expected = F.conv2d(x, weight, stride=stride, padding=1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function", [plain_deform_conv, deform_conv])
def test_gradients_are_right(function) -> None:  # type: ignore[no-untyped-def]
    x, offset, mask, weight = inputs(1, 0.5, torch.float64)
    # A corner of it: each number is moved twice.
    few = x[:1, :2, :3, :4], offset[:1, :, :3, :4], mask[:1, :, :3, :4], weight[:2, :2]
    given = tuple(t.clone().requires_grad_() for t in few)
    assert torch.autograd.gradcheck(lambda *t: function(*t, stride=1), given)


def test_it_is_computed_in_full_precision_under_autocast() -> None:
    x, offset, mask, weight = inputs(1, 3.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = deform_conv(x, offset, mask, weight, stride=1)
    torch.testing.assert_close(found, deform_conv(x, offset, mask, weight, stride=1))
    assert found.dtype == torch.float32


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_offsets_of_a_model_that_diverges_give_no_number_and_no_crash(value: float) -> None:
    x, offset, mask, weight = inputs(1, 0.5)
    offset[0, 3, 2, 2] = value
    found = plain_deform_conv(x, offset, mask, weight, stride=1)
    assert torch.equal(found[1], plain_deform_conv(x, offset, mask, weight, stride=1)[1])
    assert bool(found[0, :, 2, 2].isfinite().all()) == (value == 1e30)
