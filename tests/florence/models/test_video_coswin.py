"""Video CoSwin: its geometry, its parity with Video Swin, and its cost of memory."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from florence.config import (
    ActivationCheckpointing,
    Attention,
    Embedding,
    ImageTower,
    architecture_of,
)
from florence.config.video import VideoPreset, VideoShape, VideoTower
from florence.models.compilation import compile_blocks
from florence.models.meta import on_meta
from florence.models.video_attention import VideoWindowAttention
from florence.models.video_coswin import VideoBlock, VideoCoSwin
from florence.models.video_windows import VideoGrid, all_blocks, block_masks, video_order
from tests.florence.models.references import randomise, reference
from tests.florence.models.test_swin_parity import assert_close, ours_from_torchvision

CPU = torch.device("cpu")
NANO = ImageTower(width=16, depths=(2, 2, 2, 1), heads=(2, 2, 4, 4), window=4)


def shape_of(*, frames: int = 2, window: int = 4, tubelet: int = 2, merge: int = 3) -> VideoShape:
    return VideoShape(
        tubelet=tubelet,
        merge_kernel_time=merge,  # type: ignore[arg-type]
        window_frames=(frames,) * 4,
        windows=(window,) * 4,
    )


def tower(config: ImageTower = NANO, **options: int) -> VideoCoSwin:
    model = VideoCoSwin(config, shape_of(**options), 8)
    randomise(model)
    return model.eval()


SIZES = [(4, 4, 4, 2, 2), (5, 4, 4, 2, 3), (3, 3, 5, 4, 2), (9, 2, 3, 8, 2), (1, 3, 3, 2, 4)]


@pytest.mark.parametrize(("frames", "height", "width", "window_frames", "window"), SIZES)
@pytest.mark.parametrize("shifted", [False, True])
def test_masks_are_those_of_a_brute_force_search(
    frames: int, height: int, width: int, window_frames: int, window: int, shifted: bool
) -> None:
    """Two tokens of a window see each other when the cyclic shift kept them in order."""
    grid = VideoGrid.over(
        frames, height, width, window_frames=window_frames, window=window, shifted=shifted
    )
    order = video_order(grid, CPU).forward.view(grid.windows, grid.tokens).tolist()
    blocks = all_blocks(grid)
    masks = block_masks(grid, CPU, torch.float32)
    numbers = torch.arange(grid.windows).view(grid.counts)
    seen: list[int] = []
    for block, mask in zip(blocks, masks, strict=True):
        for number in numbers[block.slices].flatten().tolist():
            seen.append(number)
            for i, j in itertools.product(range(grid.tokens), repeat=2):
                a, b = (
                    torch.unravel_index(
                        torch.tensor(order[number][k]),
                        (grid.padded_frames, grid.padded_height, grid.padded_width),
                    )
                    for k in (i, j)
                )
                # Neighbours as the map has them, within less than a window along every axis.
                near = (
                    abs(int(a[0] - b[0])) < grid.window_frames
                    and abs(int(a[1] - b[1])) < grid.window_height
                    and abs(int(a[2] - b[2])) < grid.window_width
                )
                visible = near and int(b[0]) < frames
                assert bool(mask[i, j] == 0) == visible, (number, i, j)
    assert sorted(seen) == list(range(grid.windows))


@pytest.mark.parametrize("frames", [4, 7, 16])
def test_the_implementations_agree(frames: int) -> None:
    clips = torch.randn(2, 3, frames, 48, 40)
    results = []
    for attention in Attention:
        config = NANO.model_copy(update={"attention": attention})
        model = tower(config, frames=4)
        model.train()
        inputs = clips.clone().requires_grad_()
        features = model.features(inputs)
        features.square().sum().backward()
        tables = [
            module.relative_position_bias_table.grad
            for module in model.modules()
            if isinstance(module, VideoWindowAttention)
        ]
        results.append((features.detach(), inputs.grad, *tables))
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            assert ours is not None
            scale = max(1.0, float(ours.abs().max()))
            torch.testing.assert_close(theirs, ours, rtol=0, atol=2e-5 * scale)


def test_nothing_leaks_over_time_between_windows() -> None:
    """Without shifts, merging or another stage, a frame changes the tokens of its window only."""
    config = NANO.model_copy(update={"depths": (1, 1, 1, 1)})
    model = tower(config, frames=2, merge=1)
    clips = torch.randn(1, 3, 8, 32, 32)
    other = clips.clone()
    other[:, :, 0] += 1
    with torch.no_grad():
        changed = (model.tokens(clips) - model.tokens(other)).abs().amax(dim=(0, 2, 3, 4))
    assert changed[:2].min() > 1e-4
    assert changed[2:].max() == 0


def test_shifted_windows_see_over_time() -> None:
    """With a shifted block a frame reaches one window further, and no frame round the ends."""
    config = NANO.model_copy(update={"depths": (2, 1, 1, 1)})
    model = VideoCoSwin(
        config,
        VideoShape(
            tubelet=2, merge_kernel_time=1, window_frames=(2, 1, 1, 1), windows=(4, 4, 4, 4)
        ),
        8,
    ).eval()
    randomise(model)
    clips = torch.randn(1, 3, 12, 32, 32)
    other = clips.clone()
    other[:, :, 0] += 1
    with torch.no_grad():
        changed = (model.tokens(clips) - model.tokens(other)).abs().amax(dim=(0, 2, 3, 4))
    assert changed[:3].min() > 1e-5  # its window, and the half of the next that the shift joins
    assert changed[3:].max() == 0


def ours_from_swin3d(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names of its video model to those of its image model, and so to ours."""
    renamed = {}
    for name, value in state.items():
        if name.startswith("features."):
            _, number, rest = name.split(".", 2)
            name = f"features.{int(number) + 1}.{rest}"
        renamed[name] = value
    return ours_from_torchvision(renamed)


def swin3d(small: bool) -> tuple[nn.Module, VideoCoSwin]:
    """torchvision's model and ours with its weights: Swin3D-T, or one of its kind that is small."""
    video = reference("torchvision.models.video")
    width, depths, heads, frames = 96, (2, 2, 6, 2), (3, 6, 12, 24), 8
    if small:
        width, depths, heads, frames = 24, (2, 2, 2, 2), (1, 2, 3, 6), 2
    theirs: nn.Module = video.swin_transformer.SwinTransformer3d(
        patch_size=[2, 4, 4],
        embed_dim=width,
        depths=list(depths),
        num_heads=list(heads),
        window_size=[frames, 7, 7],
        num_classes=10,
    )
    randomise(theirs)
    config = ImageTower(width=width, depths=depths, heads=heads, embedding=Embedding.SWIN)
    ours = VideoCoSwin(config, shape_of(frames=frames, window=7), 10)
    state = ours_from_swin3d(theirs.state_dict())
    assert set(state) - {"projection.bias"} == set(ours.state_dict())
    ours.load_state_dict(state, strict=False)
    return theirs.eval(), ours.eval()


@pytest.mark.slow
def test_equals_torchvisions_swin3d_t() -> None:
    """K4. At 224 pixels, for torchvision clamps windows to a smaller last map wrongly."""
    theirs, ours = swin3d(small=False)
    clips = torch.randn(1, 3, 8, 224, 224)
    with torch.no_grad():
        assert_close(ours(clips) + theirs.head.bias, theirs(clips))


def test_equals_torchvision_in_gradients_with_windows_shifted_in_time() -> None:
    theirs, ours = swin3d(small=True)
    clips = torch.randn(1, 3, 8, 224, 224)
    ours_out, theirs_out = ours(clips) + theirs.head.bias, theirs(clips)
    assert_close(ours_out.detach(), theirs_out.detach())
    direction = torch.randn_like(ours_out)
    (ours_out * direction).sum().backward()
    (theirs_out * direction).sum().backward()
    grads = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    own = {name: parameter.grad for name, parameter in ours.named_parameters()}
    for name, expected in ours_from_swin3d(grads).items():  # type: ignore[arg-type]
        if name != "projection.bias":
            scale = expected.abs().max().item()
            torch.testing.assert_close(own[name], expected, rtol=0, atol=2e-5 * scale, msg=name)


@pytest.mark.parametrize("level", list(ActivationCheckpointing))
def test_checkpointing_changes_no_gradient(level: ActivationCheckpointing) -> None:
    def gradients(chosen: ActivationCheckpointing) -> list[Tensor]:
        model = VideoCoSwin(NANO, shape_of(), 8, checkpointing=chosen, drop_path=0.3)
        randomise(model)
        torch.manual_seed(0)
        model(torch.linspace(-1, 1, 3 * 6 * 40 * 40).view(1, 3, 6, 40, 40)).sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    plain, other = gradients(ActivationCheckpointing.NONE), gradients(level)
    assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))


@pytest.mark.slow
def test_compiled_blocks_agree() -> None:
    model = tower(NANO)
    clips = torch.randn(1, 3, 6, 40, 40)
    expected = model(clips)
    compile_blocks(model, backend="aot_eager")
    torch.testing.assert_close(model(clips), expected, rtol=0, atol=1e-5)
    assert any(isinstance(module, VideoBlock) for module in model.modules())


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 17])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 50)])
def test_takes_clips_of_any_length_and_size(frames: int, height: int, width: int) -> None:
    with torch.no_grad():
        embedding = tower()(torch.randn(2, 3, frames, height, width))
    assert embedding.shape == (2, 8)
    assert embedding.isfinite().all()


def test_the_preset_of_the_paper_has_its_parameters() -> None:
    """647 million with a head for Kinetics-400, from an image tower of 637 million."""
    config = architecture_of("coswin-h").image

    def count(preset: VideoPreset) -> int:
        with on_meta():
            model = VideoCoSwin(config, VideoTower(preset=preset).shape(config, 12), 1024)
        unused = model.projection.weight.numel()
        return sum(p.numel() for p in model.parameters()) - unused + (8 * config.width + 1) * 400

    assert round(count(VideoPreset.PARAMS647) / 1e6) == 647
    assert round(count(VideoPreset.PAPER) / 1e6) == 697  # what merging over 3 tokens adds


def test_a_swin_tower_merges_single_frames() -> None:
    config = NANO.model_copy(update={"embedding": Embedding.SWIN})
    assert VideoTower().shape(config, 4).merge_kernel_time == 1
    assert VideoTower().shape(NANO, 4).merge_kernel_time == 3
