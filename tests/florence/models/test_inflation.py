"""Inflation: a video tower starts where the image tower ended (tests K1, K2, K3, K8)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from florence.config import Embedding, ImageTower
from florence.config.video import VideoShape
from florence.errors import DataError
from florence.models.image import CoSwin
from florence.models.inflation import inflate, rewindowed
from florence.models.video_coswin import VideoCoSwin
from tests.florence.models.references import randomise, reference
from tests.florence.models.test_swin_parity import ours_from_torchvision

CONFIG = ImageTower(width=16, depths=(2, 2, 2, 1), heads=(2, 2, 4, 4), window=4)


def shape_of(frames: int, *, tubelet: int = 2, merge: int = 3, window: int = 4) -> VideoShape:
    return VideoShape(
        tubelet=tubelet,
        merge_kernel_time=merge,  # type: ignore[arg-type]
        window_frames=(frames,) * 4,
        windows=(window,) * 4,
    )


def image_tower(config: ImageTower = CONFIG) -> CoSwin:
    model = CoSwin(config, 8).eval()
    randomise(model)
    return model


def video_tower(image: CoSwin, shape: VideoShape) -> VideoCoSwin:
    model = VideoCoSwin(image.config, shape, 8).eval().to(image.norm.weight.dtype)
    model.load_state_dict(inflate(image.state_dict(), model).state)
    return model


@pytest.mark.parametrize("merge", [1, 3])
@pytest.mark.parametrize("tubelet", [1, 2, 3])
@pytest.mark.parametrize(
    ("frames", "window_frames"),
    [(1, 2), (4, 8), (8, 2), (7, 2), (16, 4), (11, 3)],
    ids=lambda value: str(value),
)
def test_a_frozen_clip_has_the_features_of_its_frame(
    frames: int, window_frames: int, tubelet: int, merge: int
) -> None:
    """K1, whatever the windows and however they tile the clip."""
    image = image_tower().double()
    video = video_tower(image, shape_of(window_frames, tubelet=tubelet, merge=merge))
    picture = torch.randn(1, 3, 56, 72, dtype=torch.float64)
    with torch.no_grad():
        expected = image.features(picture)
        found = video.features(picture.unsqueeze(2).expand(-1, -1, frames, -1, -1))
    assert float(expected.abs().max()) > 0.5
    assert float((found - expected).abs().max()) <= 6e-8


def test_a_frozen_clip_has_the_features_of_torchvisions_image_model() -> None:
    """Inflated from swin_t's weights, in double precision."""
    theirs = reference("torchvision.models").swin_t(num_classes=8)
    randomise(theirs)
    config = ImageTower(
        width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), embedding=Embedding.SWIN
    )
    state = ours_from_torchvision(theirs.state_dict())
    state.pop("projection.bias")
    video = VideoCoSwin(config, shape_of(8, merge=1, window=7), 8).eval()
    video.load_state_dict(inflate(state, video).state)
    picture = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs.double().eval()(picture) - theirs.head.bias
        found = video.double()(picture.unsqueeze(2).expand(-1, -1, 4, -1, -1))
    assert float((found - expected).abs().max()) <= 6e-8


def test_kernels_sum_over_time_to_the_images() -> None:
    """K2, and the report names exactly the tensors that were made."""
    image = image_tower()
    video = VideoCoSwin(CONFIG, shape_of(4), 8)
    state = image.state_dict()
    inflated = inflate(state, video)
    assert len(inflated.kernels) == 4
    for name in inflated.kernels:
        assert inflated.state[name].shape[2] == (2 if name.startswith("patch_embed") else 3)
        torch.testing.assert_close(inflated.state[name].sum(dim=2), state[name])
    assert set(inflated.tables) == {n for n in state if n.endswith("bias_table")}
    made = {*inflated.kernels, *inflated.tables}
    assert all(inflated.state[name] is state[name] for name in state if name not in made)


def test_tables_repeat_for_every_distance_in_time() -> None:
    """K3: a bias depends on the relative position in space alone."""
    image = image_tower()
    video = video_tower(image, shape_of(4))
    for stage, video_stage in zip(image.layers, video.layers, strict=True):
        for block, video_block in zip(stage.blocks, video_stage.blocks, strict=True):
            table = block.attn.relative_position_bias_table
            repeated = video_block.attn.relative_position_bias_table.view(7, *table.shape)
            assert all(torch.equal(part, table) for part in repeated)


@pytest.mark.parametrize("window_frames", [2, 4])
def test_a_reversed_clip_has_reversed_tokens(window_frames: int) -> None:
    """K8: right after inflation nothing knows the direction of time."""
    video = video_tower(image_tower(), shape_of(window_frames))
    clips = torch.randn(1, 3, 16, 40, 40)
    with torch.no_grad():
        tokens, reverse = video.tokens(clips), video.tokens(clips.flip(2))
    scale = float(tokens.abs().max())
    assert float((tokens.flip(1) - reverse).abs().max()) <= 1e-5 * scale
    assert float((tokens - reverse).abs().max()) > 1e-2 * scale


def test_windows_of_another_side_are_resized_first() -> None:
    image = image_tower()
    wide = CoSwin(CONFIG, 8, window=6).eval()
    from florence.models.window_resize import resize_windows

    wide.load_state_dict(resize_windows(image.state_dict(), wide))
    video = video_tower(image, shape_of(2, window=6))
    picture = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        expected = wide.features(picture)
        found = video.features(picture.unsqueeze(2).expand(-1, -1, 4, -1, -1))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


def test_a_video_tower_changes_its_windows() -> None:
    """The same windows change nothing; from an inflated tower, those of a longer clip repeat."""
    before, after = shape_of(2), shape_of(5)
    image = image_tower()
    short, long = video_tower(image, before), video_tower(image, after)
    same = rewindowed(short.state_dict(), before, short)
    assert all(torch.equal(same[name], value) for name, value in short.state_dict().items())
    state = rewindowed(short.state_dict(), before, long)
    for name, value in long.state_dict().items():
        torch.testing.assert_close(state[name], value, msg=name)


def test_says_what_does_not_fit() -> None:
    video = VideoCoSwin(CONFIG, shape_of(2), 8)
    state: dict[str, Tensor] = image_tower().state_dict()
    with pytest.raises(DataError, match=r"has no 'norm.weight' in its image tower"):
        inflate({n: v for n, v in state.items() if n != "norm.weight"}, video)
    with pytest.raises(DataError, match=r"'norm.weight' is .9,., which does not make .128,."):
        inflate({**state, "norm.weight": torch.zeros(9)}, video)
