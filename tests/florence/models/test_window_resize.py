"""Bias tables on their way to another window size."""

from __future__ import annotations

import torch

from florence.config import architecture_of
from florence.models.image import CoSwin
from florence.models.two_tower import TwoTower
from florence.models.window_resize import resize_windows

NANO = architecture_of("coswin-nano")


def tower(window: int) -> CoSwin:
    return CoSwin(NANO.image, NANO.embed_dim, window=window)


def test_equal_windows_change_nothing() -> None:
    """Test C5: the very same tensors come back."""
    model = tower(4)
    state = model.state_dict()
    resized = resize_windows(state, model)
    assert resized.keys() == state.keys()
    assert all(resized[name] is state[name] for name in state)


def test_only_tables_change_and_the_result_loads() -> None:
    small, large = TwoTower(NANO), TwoTower(NANO, window=8)
    state = small.state_dict()
    resized = resize_windows(state, large)
    changed = {name for name in state if resized[name] is not state[name]}
    assert changed == {name for name in state if name.endswith("bias_table")}
    large.load_state_dict(resized)
    assert large.encode_image(torch.randn(1, 3, 128, 128)).isfinite().all()


def test_a_smooth_bias_keeps_its_shape() -> None:
    """A bias that is a parabola of the offset in windows stays that parabola, for every head."""
    small, large = tower(7), tower(12)

    def table(window: int) -> torch.Tensor:
        # Pixel centres of the resized picture: its edges, not its corner entries, stay in place.
        side = 2 * window - 1
        offset = (torch.arange(side) + 0.5) / side - 0.5
        y, x = torch.meshgrid(offset, offset, indexing="ij")
        return torch.stack([(head + 1) * y**2 - x**2 + x for head in range(2)], dim=-1).view(-1, 2)

    name = "layers.0.blocks.0.attn.relative_position_bias_table"
    resized = resize_windows({name: table(7)}, large)[name]
    # Cubic convolution is not exact for a parabola whose range is about 1, only close.
    inner = slice(4, -4)
    actual = resized.view(23, 23, 2)[inner, inner]
    torch.testing.assert_close(actual, table(12).view(23, 23, 2)[inner, inner], rtol=0, atol=0.01)
    back = resize_windows({name: resized}, small)[name]
    assert back.shape == (13 * 13, 2)
    assert back.is_contiguous()
