"""What the planner is told of a video step equals what torch counts and keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from florence.config import ActivationCheckpointing, Architecture, Attention, architecture_of
from florence.config.video import VideoPreset, VideoTower
from florence.models.classifier import HeadShape
from florence.models.meta import on_meta
from florence.models.video_coswin import VideoCoSwin
from florence.models.video_models import VideoTwoTower, build_video_classifier
from florence.planner.activations import kept_bytes, numerics, tower_units
from florence.planner.video_sizes import video_macs, video_parameters, video_stages
from florence.tasks.video.cost import ASSUMED_CLASSES, VideoCost
from florence.tasks.video.settings import Video
from tests.florence.tasks.video.running import MODEL

NANO = MODEL.architecture()
SHAPE = VideoTower(window_frames=(2, 4, 4, 4)).shape(NANO.image, 4)


def config(mode: str, **changes: Any) -> Video:
    fields = {"mode": mode, "data": "x", "steps": 1, "resolution": 64, "clip": {"frames": 8}}
    return Video.model_validate({**fields, **changes})


@pytest.mark.parametrize("preset", list(VideoPreset))
@pytest.mark.parametrize("name", ["coswin-nano", "coswin-t", "coswin-h"])
def test_parameters_are_those_of_the_model(name: str, preset: VideoPreset) -> None:
    architecture = architecture_of(name)
    shape = VideoTower(preset=preset).shape(architecture.image, architecture.image.window)
    with on_meta():
        model = VideoCoSwin(architecture.image, shape, architecture.embed_dim)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert video_parameters(architecture, shape) == count


def test_parameters_of_both_modes() -> None:
    cost, actions, retrieval = VideoCost(), config("actions"), config("retrieval")
    shape = actions.tower.shape(NANO.image, NANO.image.window)
    classifier = build_video_classifier(NANO, shape, HeadShape(classes=ASSUMED_CLASSES))
    with on_meta():
        towers = VideoTwoTower(NANO, shape)
    for settings, model in ((actions, classifier), (retrieval, towers)):
        count = sum(parameter.numel() for parameter in model.parameters())
        assert cost.parameters(NANO, settings).total == count
    unused = classifier.image.projection.weight.numel()
    total = cost.parameters(NANO, actions).total
    assert cost.trained_parameters(NANO, actions) == total - unused


@pytest.mark.parametrize(("frames", "resolution"), [(8, 64), (5, 72)])
def test_macs_are_those_torch_counts(frames: int, resolution: int) -> None:
    with on_meta():
        model = VideoCoSwin(NANO.image, SHAPE, NANO.embed_dim)
        clips = torch.zeros(1, 3, frames, resolution, resolution)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.train()(clips)
    expected = 2 * video_macs(NANO, SHAPE, frames=frames, resolution=resolution)
    assert counter.get_total_flops() == expected


@pytest.mark.parametrize("checkpointing", list(ActivationCheckpointing))
@pytest.mark.parametrize("resolution", [64, 72])
def test_activations_are_what_autograd_keeps(
    checkpointing: ActivationCheckpointing, resolution: int
) -> None:
    """Within 5 %, per clip: from two batches, for tables and orders do not grow with them."""
    image = NANO.image.model_copy(update={"attention": Attention.MATH, "depths": (2, 2, 2, 2)})
    architecture: Architecture = NANO.model_copy(update={"image": image})
    model = VideoCoSwin(image, SHAPE, architecture.embed_dim, checkpointing=checkpointing)
    model.train()
    known = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

    def saved(batch: int) -> int:
        clips = torch.randn(batch, 3, 8, resolution, resolution)
        found: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in known and storage._cdata != clips.untyped_storage()._cdata:
                found[storage._cdata] = storage.nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            result = model(clips)
        del result
        return sum(found.values())

    measured = (saved(4) - saved(2)) / 2
    units = tower_units(
        architecture,
        video_stages(architecture, SHAPE, frames=8, resolution=resolution),
        values=3 * 8 * resolution**2,
        checkpointing=checkpointing,
        numbers=numerics(config("actions").precision, Attention.MATH, cuda=False),
    )
    assert kept_bytes(units) == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("mode", ["actions", "retrieval"])
def test_every_figure_is_there(mode: str) -> None:
    cost, settings = VideoCost(), config(mode, gradientCacheChunks=2)
    flops = cost.training_flops(NANO, settings)
    assert flops.total == 6 * cost.forward_macs(NANO, settings).total
    assert cost.activation_bytes(NANO, settings, cuda=True) > 0
    assert cost.sample_bytes(NANO, settings) > 3 * 8 * 64**2 * 4
    assert cost.loss_bytes(NANO, settings, rows=8, processes=1).logits > 0
    assert cost.recomputed_macs(NANO, settings) == (
        cost.forward_macs(NANO, settings).total // 2 if mode == "retrieval" else 0
    )
